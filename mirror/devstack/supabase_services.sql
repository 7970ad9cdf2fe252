-- The objects of Realtime and Storage in a project's database that policies refer to. Run as the
-- superuser supabase_admin after supabase_database.sql. They follow the public repositories
-- supabase/realtime and supabase/storage.


-- Realtime: private channels -----------------------------------------------------------------
create schema realtime;

grant usage on schema realtime to postgres, anon, authenticated, service_role;
grant all on schema realtime to supabase_realtime_admin;

-- Messages that the database sends. Realtime also asks policies with this table: it writes a row
-- of the topic and rolls back. In a project, each day has a partition; here, one holds all days.
create table realtime.messages (
    id uuid not null default gen_random_uuid(),
    topic text not null,
    extension text not null,
    event text,
    payload jsonb,
    private boolean default false,
    inserted_at timestamp not null default now(),
    updated_at timestamp not null default now(),
    primary key (id, inserted_at)
) partition by range (inserted_at);

create table realtime.messages_always partition of realtime.messages default;

alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;

grant select, insert, update on realtime.messages
    to postgres, anon, authenticated, service_role;

-- The topic that a client wants to join, while Realtime asks the policies.
create function realtime.topic() returns text
    language sql stable
    return nullif(current_setting('realtime.topic', true), '');

-- If a message cannot be written, that is a warning, not an error.
create function realtime.send(
    payload jsonb, event text, topic text, private boolean default true
) returns void
    language plpgsql
as $$
declare
    message uuid := gen_random_uuid();
begin
    perform set_config('realtime.topic', send.topic, true);
    insert into realtime.messages (id, topic, extension, event, payload, private)
    values (
        message, send.topic, 'broadcast', send.event,
        jsonb_build_object('id', message) || send.payload, send.private
    );
exception when others then
    raise warning 'realtime.send: %', sqlerrm;
end
$$;

alter function realtime.topic() owner to supabase_realtime_admin;
alter function realtime.send(jsonb, text, text, boolean) owner to supabase_realtime_admin;


-- Storage: buckets and objects ---------------------------------------------------------------
create schema storage;

grant usage on schema storage to postgres, anon, authenticated, service_role;
grant all on schema storage to supabase_storage_admin;

create table storage.buckets (
    id text primary key,
    name text not null unique,
    public boolean default false,
    -- In bytes.
    file_size_limit bigint,
    allowed_mime_types text[]
);

-- A file's row; `name` is its whole path in the bucket, `owner_id` the uploading token's subject.
create table storage.objects (
    id uuid primary key default gen_random_uuid(),
    bucket_id text references storage.buckets (id),
    name text,
    owner_id text,
    metadata jsonb,
    created_at timestamptz default now(),
    unique (bucket_id, name)
);

alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;

grant all on storage.buckets, storage.objects to postgres with grant option;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;
