// Signs events with npm jose, a library that the gateway does not use: claims as a JSON list come in on standard input;
// out go the tokens and the key set.
import { exportJWK, generateKeyPair, SignJWT } from 'jose';

const { publicKey, privateKey } = await generateKeyPair('RS256', { extractable: true });
const events = JSON.parse(await new Response(process.stdin).text());
const sign = (claims) => new SignJWT(claims).setProtectedHeader({ alg: 'RS256', typ: 'secevent+jwt', kid: 'k' }).sign(privateKey);
const keys = [{ ...(await exportJWK(publicKey)), kid: 'k', use: 'sig', alg: 'RS256' }];
console.log(JSON.stringify({ tokens: await Promise.all(events.map(sign)), jwks: { keys } }));
