// Runs JavaScript of a page with the real client: stdin {code, url, key, names, message}, stdout
// {joins, left, storage}. Storage and the socket of Realtime, which the stand-in lacks, are played
// here: they note what the client sends, and a channel gets the message once it is joined.
import { text } from "node:stream/consumers";
import { createClient } from "@supabase/supabase-js";

const { code, url, key, names, message } = JSON.parse(await text(process.stdin));
const joins = [];
const left = [];
const storage = [];

class Socket {
  readyState = 1;

  constructor() {
    setTimeout(() => this.onopen?.({}));
  }

  send(frame) {
    const [join, number, topic, event, payload] = JSON.parse(frame);
    if (event === "phx_join") joins.push({ topic, private: payload.config.private });
    const answer = { status: "ok", response: { postgres_changes: [] } };
    this.receive([join, number, topic, "phx_reply", answer]);
    if (event !== "phx_join") return;
    this.receive([join, null, topic, "broadcast", { type: "broadcast", ...message }]);
  }

  receive(frame) {
    setTimeout(() => this.onmessage?.({ data: JSON.stringify(frame) }));
  }

  close() {}
}

async function request(to, options) {
  const { method, body } = options;
  const path = new URL(to).pathname;
  if (!path.startsWith("/storage/")) return fetch(to, options);
  storage.push({ method, path, body: JSON.parse(body) });
  return new Response("[]", { headers: { "content-type": "application/json" } });
}

const known = {
  supabase: createClient(url, key, {
    auth: { persistSession: false },
    global: { fetch: request },
    realtime: { transport: Socket },
  }),
  leave: (resource) => left.push(resource),
  ...names,
};
const AsyncFunction = (async () => {}).constructor;
await new AsyncFunction(...Object.keys(known), code)(...Object.values(known));

// A page that subscribes is done when it has reacted to the message.
const end = Date.now() + 10_000;
while (message && !left.length && Date.now() < end) await new Promise((then) => setTimeout(then, 5));
console.log(JSON.stringify({ joins, left, storage }));
process.exit();
