// A real OpenID provider (npm's oidc-provider) for tests: people, who sign in with
// their name and any password, and jobs, which get a token by client_credentials.
//
//   node provider.mjs PORT SETTINGS
//
// SETTINGS is JSON: accounts (claims by name), jobs (claims by client id) and
// redirects (of the client "web"). Every start makes new signing keys.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// The packages are beside the tools that are built for tests, not beside this file.
const require = createRequire(process.env.OIDC_PROVIDER_MODULES + '/');
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
const { exportJWK, generateKeyPair } = await import(pathToFileURL(require.resolve('jose')));

const [port, settings] = [process.argv[2], JSON.parse(process.argv[3])];
const issuer = `http://127.0.0.1:${port}`;

const keys = [];
for (const alg of ['RS256', 'ES256']) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  keys.push({ ...(await exportJWK(privateKey)), alg, use: 'sig' });
}

const provider = new Provider(issuer, {
  jwks: { keys },
  clients: [
    { // berth login: a public client on somebody's computer (RFC 8252)
      client_id: 'berth-cli', token_endpoint_auth_method: 'none', application_type: 'native',
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
      response_types: ['code'],
    },
    { // the server itself, for browsers
      client_id: 'berth-web', client_secret: 'the secret of the client berth-web', application_type: 'web',
      redirect_uris: settings.redirects?.length ? settings.redirects : ['https://registry.example.com/sign-in/callback'],
      grant_types: ['authorization_code'], response_types: ['code'],
      id_token_signed_response_alg: 'ES256',
    },
    ...Object.keys(settings.jobs ?? {}).map((id) => ({
      client_id: id, client_secret: `the secret of the job ${id}`,
      grant_types: ['client_credentials'], response_types: [], redirect_uris: [],
    })),
  ],
  claims: { openid: ['sub', 'preferred_username', 'groups', 'teams'], email: ['email', 'email_verified'] },
  scopes: ['openid', 'offline_access', 'profile', 'email'],
  conformIdTokenClaims: false, // claims stand in the ID token, as with the large providers
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, ...settings.accounts?.[id] }),
  }),
  extraTokenClaims: (_, token) => settings.jobs?.[token.clientId],
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => false,
      getResourceServerInfo: (_, resource) => ({ scope: '', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 600 }),
    },
  },
  pkce: { required: (_, client) => client.grantTypes.includes('authorization_code') },
  rotateRefreshToken: true,
  ttl: { IdToken: settings.idTokenSeconds ?? 600, Session: 3600, Interaction: 600, Grant: 3600, DeviceCode: 600 },
  cookies: { keys: ['a key for the cookies of tests'] },
  renderError: (ctx, out) => { ctx.type = 'json'; ctx.body = out; },
});
createServer(provider.callback()).listen(Number(port), '127.0.0.1', () => console.log(`ready at ${issuer}`));
