// A certified client library (npm openid-client, and the oauth4webapi it is built on) asks the gateway; one line of JSON comes back.
//
//   node openid_client.mjs GATEWAY ISSUER CLIENT_ID SECRET basic|post revoke|introspect TOKEN
//   node openid_client.mjs GATEWAY resource
import * as oauth from 'oauth4webapi';
import * as client from 'openid-client';

const [gateway, ...rest] = process.argv.slice(2);

async function ask(issuer, id, secret, way, what, token) {
  const server = { issuer, revocation_endpoint: `${gateway}/-/revoke`, introspection_endpoint: `${gateway}/-/introspect` };
  const authentication = way === 'basic' ? client.ClientSecretBasic(secret) : client.ClientSecretPost(secret);
  const config = new client.Configuration(server, id, undefined, authentication);
  client.allowInsecureRequests(config);
  const asked = what === 'revoke' ? client.tokenRevocation : client.tokenIntrospection;
  return (await asked(config, token)) ?? 'done';
}

async function discover() {
  const answer = await oauth.resourceDiscoveryRequest(new URL(gateway), { [oauth.allowInsecureRequests]: true });
  return oauth.processResourceDiscoveryResponse(new URL(gateway), answer);
}

const asked = rest[0] === 'resource' ? discover() : ask(...rest);
console.log(JSON.stringify(await asked.catch((error) => ({ error: error.error ?? error.code ?? String(error) }))));
