-- The guards of trips: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model trips; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_guarded('trips', 'public.chat_messages',
  '{"trip_id": "uuid", "sender_id": "uuid", "id": null, "content": null}'
);
select mirror.add_index('public.chat_messages', 'trip_id');


select mirror.check_guarded('trips', 'public.chat_reactions',
  '{"message_id": null, "user_id": "uuid", "emoji": null}'
);
select mirror.add_index('public.chat_reactions', 'message_id');
select mirror.add_index('public.chat_messages', 'id');


select mirror.check_guarded('trips', 'public.chat_read_receipts',
  '{"message_id": null, "user_id": "uuid"}'
);
select mirror.add_index('public.chat_read_receipts', 'message_id');
select mirror.add_index('public.chat_messages', 'id');


select mirror.check_guarded('trips', 'public.user_presence',
  '{"trip_id": "uuid", "user_id": "uuid", "status": null, "seen_at": null}'
);
select mirror.add_index('public.user_presence', 'trip_id');


-- Those of an earlier version of these declarations.
select mirror.drop_guards('trips');


-- chat_messages: rows count for whoever belongs to their trip.
alter table public.chat_messages enable row level security;
revoke all on public.chat_messages from public, anon, authenticated;
grant select, insert (id, trip_id, content), update (content), delete
on public.chat_messages to authenticated;

create policy mirror_trips_read on public.chat_messages for select to authenticated
using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]));

create policy mirror_trips_insert on public.chat_messages for insert to authenticated
with check (
  sender_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy mirror_trips_update on public.chat_messages for update to authenticated
using (
  sender_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
)
with check (
  sender_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy mirror_trips_delete on public.chat_messages for delete to authenticated
using (
  (
    sender_id = (select auth.uid())
    and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
  )
  or trip_id = any((select mirror.my_trips('ADMIN'))::uuid[])
);


-- chat_reactions: rows count for whoever belongs to their chat_messages.
alter table public.chat_reactions enable row level security;
revoke all on public.chat_reactions from public, anon, authenticated;
grant select, insert (message_id, emoji), delete
on public.chat_reactions to authenticated;

create policy mirror_trips_read on public.chat_reactions for select to authenticated
using (
  exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_reactions.message_id
  )
);

create policy mirror_trips_insert on public.chat_reactions for insert to authenticated
with check (
  user_id = (select auth.uid())
  and exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_reactions.message_id
  )
);

create policy mirror_trips_delete on public.chat_reactions for delete to authenticated
using (
  user_id = (select auth.uid())
  and exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_reactions.message_id
  )
);


-- chat_read_receipts: rows count for whoever belongs to their chat_messages.
alter table public.chat_read_receipts enable row level security;
revoke all on public.chat_read_receipts from public, anon, authenticated;
grant select, insert (message_id)
on public.chat_read_receipts to authenticated;

create policy mirror_trips_read on public.chat_read_receipts for select to authenticated
using (
  exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_read_receipts.message_id
  )
);

create policy mirror_trips_insert on public.chat_read_receipts for insert to authenticated
with check (
  user_id = (select auth.uid())
  and exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_read_receipts.message_id
  )
);


-- user_presence: rows count for whoever belongs to their trip.
alter table public.user_presence enable row level security;
revoke all on public.user_presence from public, anon, authenticated;
grant select, insert (trip_id, status), update (status, seen_at), delete
on public.user_presence to authenticated;

create policy mirror_trips_read on public.user_presence for select to authenticated
using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]));

create policy mirror_trips_insert on public.user_presence for insert to authenticated
with check (
  user_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy mirror_trips_update on public.user_presence for update to authenticated
using (
  user_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
)
with check (
  user_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);

create policy mirror_trips_delete on public.user_presence for delete to authenticated
using (
  user_id = (select auth.uid())
  and trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
);
