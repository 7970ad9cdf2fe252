-- The chat feature's own tables on Supabase, and who may do what to them.
--
-- They belong to the feature, not to the mirror. None references a mirrored table with ON DELETE
-- CASCADE: a trip that goes must not take its chat history along.
--
-- `trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])` is computed once per statement.


create table chat_messages (
  id uuid primary key default gen_random_uuid(),
  trip_id uuid not null,
  sender_id uuid not null default auth.uid(),
  content text not null check (content <> ''),
  created_at timestamptz not null default now()
);
-- The page a client asks for; unique through the id.
create unique index chat_messages_page on chat_messages (trip_id, created_at desc, id);

create table chat_reactions (
  message_id uuid not null references chat_messages (id) on delete cascade,
  user_id uuid not null default auth.uid(),
  emoji text not null,
  created_at timestamptz not null default now(),
  primary key (message_id, user_id, emoji)
);

create table chat_read_receipts (
  message_id uuid not null references chat_messages (id) on delete cascade,
  user_id uuid not null default auth.uid(),
  read_at timestamptz not null default now(),
  primary key (message_id, user_id)
);

create table user_presence (
  trip_id uuid not null,
  user_id uuid not null default auth.uid(),
  status text not null check (status in ('online', 'away', 'typing')),
  seen_at timestamptz not null default now(),
  primary key (trip_id, user_id)
);


alter table chat_messages enable row level security;
alter table chat_reactions enable row level security;
alter table chat_read_receipts enable row level security;
alter table user_presence enable row level security;

-- Supabase's default privileges give new tables to the API's roles: take that back, by name.
revoke all on chat_messages, chat_reactions, chat_read_receipts, user_presence
from public, anon, authenticated;
grant select, delete on chat_messages, chat_reactions, user_presence to authenticated;
grant select on chat_read_receipts to authenticated;
grant insert (id, trip_id, content), update (content) on chat_messages to authenticated;
grant insert (message_id, emoji) on chat_reactions to authenticated;
grant insert (message_id) on chat_read_receipts to authenticated;
grant insert (trip_id, status), update (status, seen_at) on user_presence to authenticated;


create policy chat_messages_read on chat_messages for select to authenticated
using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]));

create policy chat_messages_send on chat_messages for insert to authenticated
with check (
  sender_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy chat_messages_edit on chat_messages for update to authenticated
using (
  sender_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
)
with check (
  sender_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

-- One's own, while one is a member; anybody's, for those who moderate.
create policy chat_messages_delete on chat_messages for delete to authenticated
using (
  (sender_id = (select auth.uid()) and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]))
  or trip_id = any((select mirror.my_trips('ADMIN'))::uuid[])
);


-- Reactions and receipts follow their message: whoever may read it. The subquery runs under the
-- caller's own policies on chat_messages.
create policy chat_reactions_read on chat_reactions for select to authenticated
using (message_id in (select m.id from chat_messages as m));

create policy chat_reactions_add on chat_reactions for insert to authenticated
with check (
  user_id = (select auth.uid()) and message_id in (select m.id from chat_messages as m)
);

create policy chat_reactions_remove on chat_reactions for delete to authenticated
using (user_id = (select auth.uid()) and message_id in (select m.id from chat_messages as m));

create policy chat_read_receipts_read on chat_read_receipts for select to authenticated
using (message_id in (select m.id from chat_messages as m));

create policy chat_read_receipts_add on chat_read_receipts for insert to authenticated
with check (
  user_id = (select auth.uid()) and message_id in (select m.id from chat_messages as m)
);


create policy user_presence_read on user_presence for select to authenticated
using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]));

create policy user_presence_enter on user_presence for insert to authenticated
with check (
  user_id = (select auth.uid()) and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy user_presence_move on user_presence for update to authenticated
using (
  user_id = (select auth.uid()) and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
)
with check (
  user_id = (select auth.uid()) and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy user_presence_leave on user_presence for delete to authenticated
using (
  user_id = (select auth.uid()) and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);


alter publication supabase_realtime
add table chat_messages, chat_reactions, chat_read_receipts, user_presence;
