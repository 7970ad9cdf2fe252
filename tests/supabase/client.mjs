// A client as an app has it: signs in, reads a trip's messages, tries to write one.

import { createClient } from "@supabase/supabase-js";

const { APP_URL, APP_KEY, APP_EMAIL, APP_PASSWORD, APP_TRIP } = process.env;
const client = createClient(APP_URL, APP_KEY, {
  auth: { persistSession: false },
  // Realtime is no part of this; Node before 22 has no WebSocket, without which it would not start.
  realtime: { transport: class {} },
});
const { error } = await client.auth.signInWithPassword({ email: APP_EMAIL, password: APP_PASSWORD });
if (error) throw error;
const read = await client.from("chat_messages").select("content").eq("trip_id", APP_TRIP);
const wrote = await client.from("chat_messages").insert({ trip_id: APP_TRIP, content: "hello" });
console.log(JSON.stringify({ rows: read.data?.length ?? -1, wrote: wrote.error?.code ?? "yes" }));
process.exit();
