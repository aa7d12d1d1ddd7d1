// A certified OpenID Connect provider for the tests of the page: `node provider.js '{"port":…,"pages":[…],"seconds":…}'`.
// Its own development pages take any name as a login, without a password: the tests give a user's id.

import { Provider, errors } from "oidc-provider";

const { port, pages, seconds } = JSON.parse(process.argv[2]);
const AUDIENCE = "carryout";

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "page",
      token_endpoint_auth_method: "none",
      redirect_uris: pages.map((page) => `${page}/`),
      post_logout_redirect_uris: pages.map((page) => `${page}/`),
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  clientBasedCORS: (_context, origin) => pages.includes(origin),
  cookies: { keys: ["for tests alone"] },
  features: {
    resourceIndicators: {
      enabled: true,
      defaultResource: () => `urn:${AUDIENCE}`,
      useGrantedResource: () => true,
      getResourceServerInfo(_context, resource) {
        if (resource !== `urn:${AUDIENCE}`) throw new errors.InvalidTarget();
        return { scope: "", audience: AUDIENCE, accessTokenFormat: "jwt", accessTokenTTL: seconds };
      },
    },
  },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: () => true,
});

provider.listen(port, "127.0.0.1", () => console.log("listening"));
