"""Faults of either side, one script each, and the doctor's code for each."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault of one side."""

    code: str
    """The doctor's code for the fault."""
    named: str
    """A part of the finding's text: the name of the broken object."""
    script: str
    """The SQL that causes the fault."""

    def __str__(self) -> str:
        """Return the id of a parametrized test."""
        return f"{self.code}: {self.named}"


PRIMARY = [
    Fault(
        "primary-not-migrated",
        "mirror.migrations",
        "drop schema mirror cascade",
    ),
    Fault(
        "primary-refused",
        "checksum",
        "alter table mirror.migrations rename column checksum to changed",
    ),
    Fault(
        "primary-behind",
        "0001_outbox",
        "update mirror.migrations set checksum = 'x' where name = '0001_outbox'",
    ),
    Fault(
        "primary-behind",
        "0001_outbox, 0002_runs, 0003_heartbeats, 0004_claims, 0005_outbox_rights, 0006_withheld, "
        "0007_pairing, 0008_prepared_transactions, 0009_receipts, 0010_structures, 0011_history",
        "delete from mirror.migrations where name <> 'triggers_trips'",
    ),
    Fault(
        "primary-ahead",
        "0099_future",
        """
        insert into mirror.migrations (name, checksum)
        values ('0099_future', 'x')
        """,
    ),
    Fault(
        "triggers-behind",
        "triggers_trips",
        """
        update mirror.migrations set checksum = 'x'
        where name = 'triggers_trips'
        """,
    ),
    Fault(
        "trigger-missing",
        "on trips, mirror_trips_delete is missing",
        "drop trigger mirror_trips_delete on trips",
    ),
    Fault(
        "trigger-missing",
        "on users, mirror_trips_update is disabled",
        "alter table users disable trigger mirror_trips_update",
    ),
    Fault(
        "trigger-missing",
        "on users, mirror_trips_update is not enabled always",
        "alter table users enable trigger mirror_trips_update",
    ),
    Fault(
        "trigger-missing",
        "on trips, mirror_trips_delete is changed, mirror_trips_insert is changed",
        """
        create or replace function mirror.capture_trips_trips() returns trigger
        language plpgsql security definer as 'begin return null; end'
        """,
    ),
    Fault(
        "source-changed",
        "mapping 'users': users is defined anew",
        """
        insert into mirror.structures (mapping, structure)
        values ('users', '{"users": {"name": "users", "is": "0 r", "file": 0, "columns": {}}}')
        """,
    ),
    Fault(
        "source-query",
        "mapping 'users'",
        "alter table users rename column username to called",
    ),
    Fault(
        "source-query",
        "mapping 'users'",
        "alter table users rename to people",
    ),
    Fault(
        "source-key",
        "mapping 'trip_memberships': column user_id is text in the primary and uuid",
        """
        alter table trip_memberships drop constraint trip_memberships_user_id_fkey;
        alter table trip_memberships alter user_id type text
        """,
    ),
    Fault(
        "source-scan",
        "mapping 'users': to find rows by id, the primary reads all of users",
        """
        alter table users drop constraint users_pkey cascade;
        insert into users (id, email, username)
        select gen_random_uuid(), n::text, n::text from generate_series(1, 10001) as n;
        analyze users
        """,
    ),
    Fault(
        "source-unlogged",
        "trip_memberships is UNLOGGED",
        "alter table trip_memberships set unlogged",
    ),
    Fault(
        "source-filtered",
        "row-level security of trips",
        """
        create role filtered;
        grant all on schema mirror, public to filtered;
        grant all on all tables in schema mirror, public to filtered;
        alter table trips enable row level security;
        set local role filtered
        """,
    ),
    Fault(
        "stuck",
        "1 event(s)",
        """
        insert into mirror.retries (id, lane, recorded_at, mapping, key, attempts, due_at, error)
        values (1, 0, now() - interval '2 min', 'users', '{a}', 3, now() + interval '1 min', 'x')
        """,
    ),
    Fault(
        "parked",
        "a fault of users",
        """
        insert into mirror.retries
          (id, lane, recorded_at, mapping, key, attempts, due_at, error, parked)
        values (1, 0, now(), 'users', '{a}', 1, now() + interval '1 min', 'x', true)
        """,
    ),
    Fault(
        "unclaimed",
        "no worker takes events of invoices",
        """
        insert into mirror.retries
          (id, lane, recorded_at, mapping, key, attempts, due_at, error, unclaimed)
        values (1, 0, now() - interval '2 min', 'invoices', '{a}', 0, now() + interval '1 day', 'x',
          true)
        """,
    ),
    Fault(
        "source-type",
        "mapping 'trips': column created_by is bigint",
        "alter table trips drop created_by, add created_by bigint",
    ),
    Fault(
        "source-cast",
        "mapping 'trips': column created_by is text",
        """
        alter table trips drop constraint trips_created_by_fkey;
        alter table trips alter created_by type text
        """,
    ),
    Fault(
        "enum-label",
        "status = 'ACTIVE'",
        "alter type membership_status rename value 'ACTIVE' to 'active'",
    ),
    Fault(
        "role-unknown",
        "'OBSERVER'",
        "alter type trip_role add value 'OBSERVER'",
    ),
    Fault(
        "outbox-late",
        "20 min",
        """
        insert into mirror.outbox (recorded_at, mapping, key)
        values (now() - interval '20 min', 'users', '{a}')
        """,
    ),
    Fault(
        "consumer-missing",
        "70 min ago",
        """
        update mirror.heartbeats set seen_at = now() - interval '70 min'
        where name like 'drain@%'
        """,
    ),
    Fault(
        "consumer-missing",
        "never",
        "delete from mirror.heartbeats where name like 'drain@%'",
    ),
    Fault(
        "beat-missing",
        "never",
        "delete from mirror.heartbeats where name = 'sweep'",
    ),
    Fault(
        "relay-missing",
        "never",
        "delete from mirror.heartbeats where name = 'relay'",
    ),
    Fault(
        "buried",
        "1 event(s)",
        """
        insert into mirror.retries
          (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)
        values (1, 0, now(), 'users', '{a}', 5, now(), 'Rejected', now())
        """,
    ),
    Fault(
        "last-reconcile",
        "'held back'",
        """
        insert into mirror.runs (finished_at, started_by, holder, outcome, report)
        values (now(), 'hand', 'x', 'held back', '{"mappings": []}')
        """,
    ),
    Fault(
        "two-schedulers",
        "both",
        """
        insert into mirror.runs (started_by, holder)
        values ('beat', 'x'), ('schedule', 'y')
        """,
    ),
]

TARGET = [
    Fault(
        "withheld",
        "1 of users (Rejected)",
        """
        insert into mirror.withheld (mapping, key, reason, epoch, fence)
        values ('users', '{a}', 'Rejected', 0, 0)
        """,
    ),
    Fault(
        "target-not-migrated",
        'schema "mirror" does not exist',
        "drop schema mirror cascade",
    ),
    Fault(
        "target-refused",
        "horizon",
        "alter table mirror.state rename column horizon to line",
    ),
    Fault(
        "target-behind",
        "0001_engine",
        "update mirror.migrations set checksum = 'x' where name = '0001_engine'",
    ),
    Fault(
        "target-behind",
        "model_trips",
        "update mirror.migrations set checksum = 'x' where name = 'model_trips'",
    ),
    Fault(
        "target-ahead",
        "0099_future",
        """
        insert into mirror.migrations (name, checksum)
        values ('0099_future', 'x')
        """,
    ),
    Fault(
        "guards-behind",
        "guards_trips",
        """
        update mirror.migrations set checksum = 'x'
        where name = 'guards_trips'
        """,
    ),
    Fault(
        "guards-missing",
        "public.chat_messages",
        "delete from mirror.migrations where name = 'guards_trips'",
    ),
    Fault(
        "mapping-digest",
        "trips",
        "update mirror.mappings set digest = 'x' where name = 'trips'",
    ),
    Fault(
        "failed-over",
        "failed over before 2026-01-02",
        "update mirror.state set failed_over_at = '2026-01-02 03:04:05 UTC'",
    ),
    Fault(
        "not-paired",
        "run `mirror rebase`",
        "update mirror.state set step = 7, token = gen_random_uuid()",
    ),
    Fault(
        "not-paired",
        "epoch 7",
        "update mirror.state set epoch = 7",
    ),
    Fault(
        "table-missing",
        "public.user_presence",
        "drop table user_presence",
    ),
    Fault(
        "column-missing",
        "public.trips has no column name",
        "alter table trips drop name",
    ),
    Fault(
        "column-type",
        "column role is public.trip_role, an enum, not text",
        """
        create type trip_role as enum ('MEMBER', 'ADMIN', 'OWNER');
        alter table trip_memberships alter role type trip_role using role::trip_role
        """,
    ),
    Fault(
        "column-type",
        "column name is character varying",
        "alter table trips alter name type varchar(20)",
    ),
    Fault(
        "column-required",
        "column email is NOT NULL",
        "alter table users alter email set not null",
    ),
    Fault(
        "column-required",
        "column phone is NOT NULL, has no default",
        """
        delete from trip_memberships;
        delete from users;
        alter table users add phone text not null
        """,
    ),
    Fault(
        "column-extra",
        "column phone is not mirrored",
        "alter table users add phone text",
    ),
    Fault(
        "leftover",
        "column phone of public.users is not declared any more",
        """
        alter table users add phone text;
        insert into mirror.leftovers (model, kind, name, col)
        values ('trips', 'column', 'public.users', 'phone')
        """,
    ),
    Fault(
        "leftover",
        "function mirror.my_journeys() is not declared any more",
        """
        create function mirror.my_journeys() returns uuid language sql as 'select null::uuid';
        insert into mirror.leftovers (model, kind, name)
        values ('trips', 'function', 'mirror.my_journeys()')
        """,
    ),
    Fault(
        "reference-missing",
        "public.trip_memberships (user_id) has no foreign key to public.users",
        "alter table trip_memberships drop constraint trip_memberships_user_id_fkey",
    ),
    Fault(
        "reference-outside",
        "refers to auth.users",
        """
        insert into auth.users (id) select id from users;
        alter table users add constraint signed_up foreign key (id)
          references auth.users (id)
        """,
    ),
    Fault(
        "reference-outside",
        "public.trip_memberships (trip_id) refers to public.users",
        """
        delete from trip_memberships;
        alter table trip_memberships add foreign key (trip_id) references users (id)
        """,
    ),
    Fault(
        "column-generated",
        "column email is generated",
        """
        alter table users drop email;
        alter table users add email text generated always as ('hidden') stored
        """,
    ),
    Fault(
        "write-altered",
        'public.users: before trigger "Keep" can change or drop rows',
        """
        create function keep() returns trigger language plpgsql as $$
        begin
          new.email := 'hidden';
          return new;
        end
        $$;
        create trigger "Keep" before insert or update on users
        for each row execute function keep()
        """,
    ),
    Fault(
        "write-altered",
        "public.users: rule keep can change or drop rows",
        "create rule keep as on insert to users do instead nothing",
    ),
    Fault(
        "write-refused",
        "public.users: trigger audit can refuse rows",
        """
        create function audit() returns trigger language plpgsql as $$
        begin
          raise exception 'refused';
        end
        $$;
        create trigger audit after insert or update on users
        for each row execute function audit()
        """,
    ),
    Fault(
        "write-refused",
        "public.users: unique constraint one_address",
        "alter table users add constraint one_address unique (email)",
    ),
    Fault(
        "write-refused",
        "public.users: unique index public.one_name",
        "create unique index one_name on users (lower(username)) where username <> ''",
    ),
    Fault(
        "write-refused",
        "public.users: check constraint named",
        "alter table users add constraint named check (username <> 'A')",
    ),
    Fault(
        "write-refused",
        "public.users: exclusion constraint apart",
        "alter table users add constraint apart exclude using hash (email with =)",
    ),
    Fault(
        "table-inherited",
        "public.more_users inherits from public.users",
        "create table more_users () inherits (users)",
    ),
    Fault(
        "table-inherited",
        "public.users inherits from public.people",
        """
        create table people (id uuid not null, email text, username text);
        alter table users inherit people
        """,
    ),
    Fault(
        "delete-cascades",
        "public.diaries (trip_id) refers to public.trips: deleting a row there also deletes",
        """
        create table diaries (trip_id uuid primary key
          references trips (id) on delete cascade);
        alter table diaries enable row level security
        """,
    ),
    Fault(
        "delete-cascades",
        "public.diaries (trip_id) refers to public.trips: deleting a row there also sets",
        """
        create table diaries (trip_id uuid unique
          references trips (id) on delete set null)
        """,
    ),
    Fault(
        "delete-blocked",
        "public.diaries (trip_id) keeps rows of public.trips",
        "create table diaries (trip_id uuid unique references trips (id))",
    ),
    Fault(
        "index-missing",
        "public.trip_memberships (user_id)",
        "drop index trip_memberships_user_id",
    ),
    Fault(
        "index-missing",
        "public.chat_messages (trip_id)",
        "drop index chat_messages_page",
    ),
    Fault(
        "index-missing",
        "public.user_presence (trip_id)",
        "alter table user_presence drop constraint user_presence_pkey",
    ),
    Fault(
        "published",
        "public.trips",
        "alter publication supabase_realtime add table trips",
    ),
    Fault(
        "rls-off",
        "public.trips",
        "alter table trips disable row level security",
    ),
    Fault(
        "rls-off",
        "public.chat_messages",
        "alter table chat_messages disable row level security",
    ),
    Fault(
        "grant-excess",
        "anon may insert public.trips",
        "grant insert on trips to anon",
    ),
    Fault(
        "grant-excess",
        "authenticated may update (role) public.trip_memberships",
        "grant update (role) on trip_memberships to authenticated",
    ),
    Fault(
        "grant-excess",
        "authenticated may select (email) public.users",
        "grant select on users to authenticated",
    ),
    Fault(
        "grant-excess",
        "authenticated may truncate public.chat_messages",
        "grant truncate on chat_messages to authenticated",
    ),
    Fault(
        "grant-excess",
        "anon may delete public.chat_messages",
        "grant delete on chat_messages to anon",
    ),
    Fault(
        "grant-missing",
        "authenticated may not select (name) public.trips",
        "revoke select (name) on trips from authenticated",
    ),
    Fault(
        "grant-missing",
        "authenticated may not delete public.chat_messages",
        "revoke delete on chat_messages from authenticated",
    ),
    Fault(
        "function-executable",
        "anon may execute public.mirror_apply(text)",
        "grant execute on function mirror_apply to anon",
    ),
    Fault(
        "function-executable",
        "authenticated may execute mirror.purge",
        "grant execute on function mirror.purge to authenticated",
    ),
    Fault(
        "function-executable",
        "anon may execute mirror.my_trips(text)",
        "grant execute on function mirror.my_trips to anon",
    ),
    Fault(
        "function-shared",
        "another model declares mirror.my_trips(text), too",
        """
        insert into mirror.models (name, functions) values ('other', '{mirror.my_trips(text)}');
        insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
        values ('theirs', 'other', 1, 'x', false, '{"table": ["public", "theirs"]}')
        """,
    ),
    Fault(
        "policy-missing",
        "public.chat_messages has no policy mirror_trips_read",
        "drop policy mirror_trips_read on chat_messages",
    ),
    Fault(
        "policy-missing",
        "public.users has no policy users_read",
        "drop policy users_read on users",
    ),
    Fault(
        "policy-missing",
        "realtime.messages has no policy mirror_trips_insert",
        "drop policy mirror_trips_insert on realtime.messages",
    ),
    Fault(
        "guard-trigger-missing",
        "on public.trip_memberships, missing or disabled: mirror_trips_told_delete",
        "alter table trip_memberships disable trigger mirror_trips_told_delete",
    ),
    Fault(
        "part-open",
        "public.old_messages, a part of public.chat_messages, answers clients by itself",
        "create table old_messages () inherits (chat_messages)",
    ),
    Fault(
        "part-open",
        "public.old_messages, a part of public.chat_messages, answers clients by itself",
        """
        create table old_messages () inherits (chat_messages);
        alter table old_messages enable row level security;
        create policy everybody on old_messages for select to authenticated using (true)
        """,
    ),
    Fault(
        "view-open",
        "view public.members shows mirrored or guarded rows",
        "create view members as select trip_id from trip_memberships",
    ),
    Fault(
        "view-open",
        "view public.members shows mirrored or guarded rows",
        """
        create view inner_members with (security_invoker) as select * from trip_memberships;
        create view members as select trip_id from inner_members
        """,
    ),
    Fault(
        "policy-permissive",
        "policy everybody on realtime.messages",
        """
        create policy everybody on realtime.messages for select to authenticated
        using (extension = 'broadcast')
        """,
    ),
    Fault(
        "policy-permissive",
        "policy everybody on public.trips",
        "create policy everybody on trips using (true)",
    ),
    Fault(
        "policy-permissive",
        "policy everybody on public.chat_messages",
        """
        create policy everybody on chat_messages for select to authenticated
        using (true)
        """,
    ),
    Fault(
        "policy-recursive",
        "public.chat_messages → public.chat_messages",
        """
        create policy thread on chat_messages as restrictive for select to authenticated
        using (exists (
          select from chat_messages as other where other.trip_id = chat_messages.trip_id
        ))
        """,
    ),
    Fault(
        "policy-recursive",
        "public.chat_messages → public.diaries → public.chat_messages",
        """
        create table diaries (trip_id uuid primary key);
        alter table diaries enable row level security;
        create policy written on diaries for select to authenticated
        using (exists (select from chat_messages as m where m.trip_id = diaries.trip_id));
        create policy thread on chat_messages as restrictive for select to authenticated
        using (exists (select from diaries as d where d.trip_id = chat_messages.trip_id))
        """,
    ),
    Fault(
        "policy-ignores-status",
        "policy travellers on public.diaries reads public.trip_memberships without status",
        """
        create table diaries (trip_id uuid primary key);
        create policy travellers on diaries for select to authenticated
        using (trip_id in (
          select m.trip_id from trip_memberships as m where m.user_id = (select auth.uid())
        ))
        """,
    ),
    Fault(
        "policy-ignores-status",
        "through public.travels(uuid), without status",
        """
        create table diaries (trip_id uuid primary key);
        create function travels(uuid) returns boolean language sql security definer as $$
          select exists (
            select from public.trip_memberships where trip_id = $1 and user_id = auth.uid()
          )
        $$;
        create policy travellers on diaries for select to authenticated using (travels(trip_id))
        """,
    ),
    Fault(
        "policy-unwrapped",
        "policy mine on public.chat_messages calls auth.uid() for each row",
        """
        create policy mine on chat_messages as restrictive for delete to authenticated
        using (sender_id = auth.uid())
        """,
    ),
    Fault(
        "policy-unwrapped",
        "calls mirror.my_trips() for each row",
        """
        create table diaries (trip_id uuid primary key);
        create policy travellers on diaries for select to authenticated
        using (trip_id = any(mirror.my_trips('MEMBER')))
        """,
    ),
    Fault(
        "policy-unwrapped",
        "calls mirror.is_fresh() for each row",
        """
        create table diaries (trip_id uuid primary key);
        create policy travellers on diaries for select to authenticated
        using (mirror.is_fresh(array['users', 'trips'], interval '60 seconds'))
        """,
    ),
]
