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
select mirror.check_unique('public.chat_messages', 'id');
select mirror.add_index('public.chat_reactions', 'message_id');
select mirror.add_index('public.chat_messages', 'id');


select mirror.check_guarded('trips', 'public.chat_read_receipts',
  '{"message_id": null, "user_id": "uuid"}'
);
select mirror.check_unique('public.chat_messages', 'id');
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
    offset 0
  )
);

create policy mirror_trips_insert on public.chat_reactions for insert to authenticated
with check (
  user_id = (select auth.uid())
  and exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_reactions.message_id
    offset 0
  )
);

create policy mirror_trips_delete on public.chat_reactions for delete to authenticated
using (
  user_id = (select auth.uid())
  and exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_reactions.message_id
    offset 0
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
    offset 0
  )
);

create policy mirror_trips_insert on public.chat_read_receipts for insert to authenticated
with check (
  user_id = (select auth.uid())
  and exists (
    select from public.chat_messages as parent1
    where parent1.id = chat_read_receipts.message_id
    offset 0
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


-- Private channels. Realtime asks as the caller, with a row of the topic: may it be read, may it be
-- written. The row's own column, and text with text: a topic that is no id casts to nothing.
do $$
begin
  if to_regclass('realtime.messages') is null then
    raise warning 'realtime.messages does not exist, so no channel is guarded; once Realtime has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

  create policy mirror_trips_read on realtime.messages for select to authenticated
  using (
    (
      extension in ('broadcast', 'presence')
      and topic = any(array(
        select 'trip:' || id from unnest(mirror.my_trips('MEMBER')) as id
      ))
    )
    or (extension = 'broadcast' and topic = 'user:' || (select auth.uid()))
  );

  create policy mirror_trips_insert on realtime.messages for insert to authenticated
  with check (
    extension in ('broadcast', 'presence')
    and topic = any(array(
      select 'trip:' || id from unnest(mirror.my_trips('MEMBER')) as id
    ))
  );
end
$$;


-- Tells each user of what changed for them. Where Realtime's table is missing, or somebody holds
-- it, nobody is told: the write goes on, and waits for nothing.
create or replace function mirror.tell_trip_memberships() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    if to_regclass('realtime.messages') is null then
      return null;
    end if;
    lock table realtime.messages in row exclusive mode nowait;
    if tg_op = 'INSERT' then
      perform realtime.send(
        jsonb_build_object('trip_id', n.trip_id, 'role', n.role),
        'membership_granted', 'user:' || n.user_id, true
      )
      from new_rows as n
      where n.status in ('ACTIVE') and n.role in ('MEMBER', 'ADMIN', 'OWNER');
    elsif tg_op = 'DELETE' then
      perform realtime.send(
        jsonb_build_object('trip_id', o.trip_id, 'role', o.role),
        'membership_revoked', 'user:' || o.user_id, true
      )
      from old_rows as o
      where o.status in ('ACTIVE') and o.role in ('MEMBER', 'ADMIN', 'OWNER');
    else
      perform realtime.send(
        jsonb_build_object('trip_id', n.trip_id, 'role', n.role),
        case
          when not was.active then 'membership_granted'
          when not remains.active then 'membership_revoked'
          else 'membership_changed'
        end, 'user:' || n.user_id, true
      )
      from new_rows as n
      join old_rows as o on o.trip_id = n.trip_id and o.user_id = n.user_id
      cross join lateral (
        select coalesce(o.status in ('ACTIVE') and o.role in ('MEMBER', 'ADMIN', 'OWNER'), false)
      ) as was (active)
      cross join lateral (
        select coalesce(n.status in ('ACTIVE') and n.role in ('MEMBER', 'ADMIN', 'OWNER'), false)
      ) as remains (active)
      where was.active or remains.active;
    end if;
  exception when others then
    raise warning 'nobody was told of changes in trip_memberships: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function mirror.tell_trip_memberships() from public, anon, authenticated, service_role;

create trigger mirror_trips_told_insert
after insert on public.trip_memberships referencing new table as new_rows
for each statement execute function mirror.tell_trip_memberships();

create trigger mirror_trips_told_update
after update on public.trip_memberships referencing old table as old_rows new table as new_rows
for each statement execute function mirror.tell_trip_memberships();

create trigger mirror_trips_told_delete
after delete on public.trip_memberships referencing old table as old_rows
for each statement execute function mirror.tell_trip_memberships();
