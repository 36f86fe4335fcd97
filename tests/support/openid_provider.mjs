// A certified OpenID provider (npm oidc-provider), and the browsers of its users: driven line by line, over JSON.
//
//   node openid_provider.mjs PORT LOGOUT_URL [sid] [auth_time]
//   < {"do": "login", "as": "alice's phone", "user": "1001"}     > {"access_token": "…", "id_token": "…"}
//   < {"do": "again", "as": "alice's phone", "max_age": "5"}      > the same, in the browser that is signed in
//   < {"do": "refresh", "as": "alice's phone"}                    > {"access_token": "…"}
//   < {"do": "logout", "as": "alice's phone"}                     > {"status": 303, "told": "success"}
//
// With `sid` and `auth_time`, access tokens have the session's; "told" is what the provider says of its back-channel
// request. Without "user", the one who signed in there does so again, if the provider asks for it.
import { Provider } from 'oidc-provider';
import http from 'node:http';
import readline from 'node:readline';

const [port, logoutUrl, ...named] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const secret = 's'.repeat(40);
const redirect = `${issuer}/callback-of-the-client`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'api-client', client_secret: secret, redirect_uris: [redirect], response_types: ['code'],
    grant_types: ['authorization_code', 'refresh_token'], backchannel_logout_uri: logoutUrl,
    backchannel_logout_session_required: true,
  }],
  features: {
    backchannelLogout: { enabled: true }, devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true, defaultResource: () => 'urn:api', useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'read', accessTokenFormat: 'jwt', accessTokenTTL: 3600, audience: 'urn:api', jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  extraTokenClaims: (ctx) => {
    const from = ctx.oidc.entities.AuthorizationCode ?? ctx.oidc.entities.RefreshToken;
    const known = { sid: from?.sid, auth_time: from?.authTime };
    return Object.fromEntries(Object.entries(known).filter(([name, value]) => named.includes(name) && value));
  },
  issueRefreshToken: () => true,
  expiresWithSession: () => false,
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  // Its own fetch refuses loopback addresses by its dispatcher.
  fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
  pkce: { required: () => false },
  cookies: { keys: ['k'] },
});
let told;
provider.on('backchannel.success', () => told('success'));
provider.on('backchannel.error', (_, error) => told(error.message));

const browsers = {};

async function browse(browser, url, options = {}) {
  const cookie = Object.entries(browser.jar).map(([name, value]) => `${name}=${value}`).join('; ');
  const answer = await fetch(url, { redirect: 'manual', ...options, headers: { ...options.headers, cookie } });
  for (const line of answer.headers.getSetCookie()) {
    const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
    if (value) browser.jar[name] = value; else delete browser.jar[name];
  }
  return answer;
}

const form = (members, headers = {}) => ({
  method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded', ...headers },
  body: new URLSearchParams(members),
});

const basic = { authorization: `Basic ${Buffer.from(`api-client:${secret}`).toString('base64')}` };

async function token(browser, members) {
  const tokens = await (await fetch(`${issuer}/token`, form(members, basic))).json();
  if (!tokens.access_token) throw new Error(JSON.stringify(tokens));
  browser.tokens = { ...browser.tokens, ...tokens };
  return tokens;
}

const actions = {
  async login({ as, user }) {
    browsers[as] = { jar: {}, user };
    return actions.again({ as });
  },
  async again({ as, max_age }) {
    const browser = browsers[as];
    const asked = new URLSearchParams({
      client_id: 'api-client', response_type: 'code', scope: 'openid offline_access', prompt: 'consent', redirect_uri: redirect,
      ...(max_age && { max_age }),
    });
    let place = (await browse(browser, `${issuer}/auth?${asked}`)).headers.get('location');
    for (let step = 0; step < 12 && !place.startsWith(redirect); step++) {
      let answer = await browse(browser, new URL(place, issuer));
      if (answer.status === 200) {
        const page = await answer.text();
        const [, action] = page.match(/action="([^"]+)"/);
        const [, prompt] = page.match(/name="prompt" value="([^"]+)"/);
        answer = await browse(browser, new URL(action, issuer), form({ prompt, login: browser.user, password: 'any' }));
      }
      place = answer.headers.get('location');
    }
    const code = new URL(place).searchParams.get('code');
    return token(browser, { grant_type: 'authorization_code', code, redirect_uri: redirect });
  },
  async refresh({ as }) {
    return token(browsers[as], { grant_type: 'refresh_token', refresh_token: browsers[as].tokens.refresh_token });
  },
  async logout({ as }) {
    const browser = browsers[as];
    const outcome = new Promise((resolve) => { told = resolve; });
    const page = await (await browse(browser, `${issuer}/session/end?id_token_hint=${browser.tokens.id_token}`)).text();
    const [, xsrf] = page.match(/name="xsrf" value="([^"]+)"/);
    const { status } = await browse(browser, `${issuer}/session/end/confirm`, form({ xsrf, logout: 'yes' }));
    return { status, told: await outcome };
  },
};

http.createServer(provider.callback()).listen(Number(port), '127.0.0.1', async () => {
  console.log(JSON.stringify({ issuer }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    try {
      console.log(JSON.stringify(await actions[asked.do](asked)));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error.stack) }));
    }
  }
  process.exit(0);
});
