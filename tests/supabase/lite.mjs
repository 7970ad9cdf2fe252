// A stand-in for a project's API: @supabase/lite (PostgREST's and GoTrue's, by Supabase) in front
// of a PostgreSQL that has a project's roles. Settings come by environment; the process list shows
// none of them. What Lite does otherwise than the real services is made up for here, and only here.

import { createHmac, timingSafeEqual } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { serve } from "@hono/node-server";
import { App, getAuthSchemaSql } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import postgres from "postgres";

const { LITE_PORT, LITE_URL, LITE_ADMIN_URL, LITE_JWT_SECRET, LITE_PUBLISHABLE_KEY, LITE_SECRET_KEY } =
  process.env;

// Both end with a slash, and are completed by the database's name.
const url = (base, database) => base + encodeURIComponent(database);

// PostgREST sees every table, whoever asks; Lite sees those that its own role may use. Both look
// once, until they are told to look again.
function seeEverything(connection, database) {
  let seen = null;
  connection.introspect = () => (seen ??= look());
  const look = async () => {
    const admin = createPostgresConnection({
      url: url(LITE_ADMIN_URL, database),
      postgresOptions: { max: 1, onnotice: () => {} },
    });
    try {
      return await admin.introspect();
    } finally {
      await admin.close();
    }
  };
}

// GoTrue migrates its own tables; Lite's command does so as the role it serves with, which here is
// `authenticator`, and would also replace auth.uid(). The stand-in's narrow auth.users goes first.
async function makeAuthTables(database) {
  const admin = postgres(url(LITE_ADMIN_URL, database), { max: 1, onnotice: () => {} });
  const [{ made }] = await admin`
    select exists (
      select from information_schema.columns
      where table_schema = 'auth' and table_name = 'users' and column_name = 'aud'
    ) as made`;
  if (!made) {
    await admin.unsafe(`begin; drop table if exists auth.users; ${getAuthSchemaSql()};
      grant usage on schema auth to authenticator;
      grant all on all tables in schema auth to authenticator; commit`);
  }
  await admin.end();
}

// Lite answers most SQLSTATEs with a code of its own and without hint, details and code; PostgREST
// passes every one on. What a function may raise itself (code PGRST) Lite does pass on.
const passedOn = /^(21|22|42|53|55|PT)|^(23502|23503|23505|25006|PGRST)$/;

function passOnCodes(connection) {
  const normalize = connection.normalizeDbError.bind(connection);
  connection.normalizeDbError = (thrown) => {
    const error = normalize(thrown);
    if (!/^[0-9A-Z]{5}$/.test(error?.code) || passedOn.test(error.code)) return error;
    const { code, message, detail = null, hint = null } = error;
    return Object.assign(new Error(JSON.stringify({ code, message, details: detail, hint })), {
      code: "PGRST",
      detail: JSON.stringify({ status: /^(08|53)/.test(code) ? 503 : 500, headers: {} }),
    });
  };
}

// Lite takes only the new keys as `apikey`; a project also takes the JWTs that came before them.
async function resolveKey(key) {
  if (key === LITE_SECRET_KEY) return { type: "secret", claims: { role: "service_role" } };
  if (key === LITE_PUBLISHABLE_KEY) return { type: "publishable", claims: { role: "anon" } };
  const [head, body, signature] = key.split(".");
  const wanted = createHmac("sha256", LITE_JWT_SECRET).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature ?? "", "base64url");
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) return null;
  const claims = JSON.parse(Buffer.from(body, "base64url"));
  if (!["anon", "service_role"].includes(claims.role)) return null;
  return { type: claims.role === "anon" ? "publishable" : "secret", claims };
}

async function serveDatabase(database) {
  await makeAuthTables(database);
  const connection = createPostgresConnection({
    url: url(LITE_URL, database),
    postgresOptions: { max: 8, onnotice: () => {} },
  });
  // Else its first request would grant all on every table to anon and authenticated.
  connection.rlsState = "active";
  passOnCodes(connection);
  seeEverything(connection, database);
  const app = new App({
    connection,
    api: { pg_safe_update: true },
    auth: {
      enabled: true,
      enable_signup: true,
      email: { enable_confirmations: false },
      jwt_secret: LITE_JWT_SECRET,
      publishable_key: LITE_PUBLISHABLE_KEY,
      secret_key: LITE_SECRET_KEY,
    },
    options: { server: { admin: false, disableStudio: true, apiKeys: { resolver: resolveKey } } },
  });
  // Its schema cache is read now, and never again.
  await app.init();
  return app;
}

let serving = null;

// PUT /serve/<database>, with the secret key: serve that one from now on, none if it has no name.
async function change(request, database) {
  if (request.headers.get("apikey") !== LITE_SECRET_KEY) return new Response(null, { status: 403 });
  // A request that never ends, of a test that broke its link, must not hold up the next tests.
  await Promise.race([serving?.connection.close(), setTimeout(5000, null, { ref: false })]);
  serving = database ? await serveDatabase(decodeURIComponent(database)) : null;
  return new Response(null, { status: 204 });
}

serve({
  port: Number(LITE_PORT),
  hostname: "127.0.0.1",
  fetch: (request, env) => {
    const [, database] = new URL(request.url).pathname.match(/^\/serve\/(.*)$/) ?? [];
    if (request.method === "PUT" && database !== undefined) return change(request, database);
    if (!serving) return new Response(null, { status: 503 });
    return serving.fetch(request, { peerAddress: env.incoming.socket.remoteAddress ?? null });
  },
});
