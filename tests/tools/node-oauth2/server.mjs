// Servers that issue tokens, and one that checks them.
//
//	node server.mjs mock PORT
//	node server.mjs strict PORT
//	node server.mjs check PORT ISSUER AUDIENCE [SCOPE]
//
// Each listens on loopback and says "ready" when it does.
import express from "express";
import { auth, requiredScopes } from "express-oauth2-jwt-bearer";
import { OAuth2Server } from "oauth2-mock-server";
import { Provider } from "oidc-provider";

const HOST = "127.0.0.1";
const [what, port, ...rest] = process.argv.slice(2);
const ready = () => console.log("ready");

// oauth2-mock-server: whoever asks gets a token. The parameter `answer` of a request changes what it gets: JSON with `statusCode` and `body`,
// whose fields replace those of the answer, or leave it without them where they are null; and with `claims` of the token.
async function mock() {
  const server = new OAuth2Server();
  server.issuer.url = `http://${HOST}:${port}`;
  await server.issuer.keys.generate("RS256");
  const wanted = (request) => JSON.parse(request.body?.answer ?? "{}");
  server.service.on("beforeTokenSigning", (token, request) => Object.assign(token.payload, wanted(request).claims));
  server.service.on("beforeResponse", (answer, request) => {
    const { statusCode, body } = wanted(request);
    const { grant_type, client_id, username, aud, scope } = request.body;
    const basic = request.headers.authorization?.split(" ")[0];
    console.log(`asked ${JSON.stringify({ basic, grant_type, client_id, username, aud, scope, status: statusCode ?? 200 })}`);
    answer.statusCode = statusCode ?? answer.statusCode;
    for (const [name, value] of Object.entries(body ?? {})) {
      answer.body[name] = value ?? undefined;
    }
  });
  await server.start(Number(port), HOST);
}

// oidc-provider: as the RFC has it. Identifier and secret of one client have characters that are encoded twice in a header.
async function strict() {
  const client = (client_id, client_secret, token_endpoint_auth_method) => ({
    client_id,
    client_secret,
    token_endpoint_auth_method,
    grant_types: ["client_credentials"],
    response_types: [],
    redirect_uris: [],
    scope: "read",
  });
  const provider = new Provider(`http://${HOST}:${port}`, {
    clients: [
      client("orion", "s3cret", "client_secret_basic"),
      client("team a/orion+1", "s3cret: 100%&more=+", "client_secret_basic"),
      client("in-the-body", "s3cret", "client_secret_post"),
    ],
    scopes: ["read"],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "urn:api:sora",
        getResourceServerInfo: () => ({ scope: "read", accessTokenFormat: "jwt", accessTokenTTL: 600 }),
      },
    },
  });
  await new Promise((resolve) => provider.listen(Number(port), HOST, resolve));
}

// The check of a JWT that a proxy asks for: 204 if it may pass, else 401 or 403.
async function check() {
  const [issuer, audience, scope] = rest;
  const app = express();
  app.use(auth({ issuer, audience, jwksUri: `${issuer}/jwks`, cooldownDuration: 0, cacheMaxAge: 0 }));
  if (scope) {
    app.use(requiredScopes(scope));
  }
  app.use((_request, response) => response.status(204).end());
  app.use((error, _request, response, _next) => response.status(error.status ?? 500).set(error.headers ?? {}).end());
  await new Promise((resolve) => app.listen(Number(port), HOST, resolve));
}

const servers = { mock, strict, check };
await servers[what]();
ready();
