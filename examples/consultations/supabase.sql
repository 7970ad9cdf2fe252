-- The chat's own tables, bucket and clean-up on Supabase.
--
-- They belong to the chat, not to the mirror: no foreign key leads to a mirrored table, so that a
-- consultation that goes does not take its messages along. Who may do what is declared in
-- mappings/consultations.py; `mirror migrate supabase --guards` installs it, `mirror ddl supabase
-- --guards` prints it.


-- Messages -----------------------------------------------------------------------------------
create table messages (
  id uuid primary key default gen_random_uuid(),
  "consultationId" uuid not null,
  -- NULL: the system.
  "senderId" uuid default auth.uid(),
  content text not null check (content <> ''),
  type varchar(50) not null default 'text'
    check (type in ('text', 'image', 'document', 'audio', 'video', 'system')),
  "createdAt" timestamptz not null default now(),
  "deliveredAt" timestamptz,
  "readAt" timestamptz,
  "deletedAt" timestamptz,
  -- What a client shows while it sends, it knows itself; the rest follows from the times.
  status text not null generated always as (
    case
      when "readAt" is not null then 'read'
      when "deliveredAt" is not null then 'delivered'
      else 'sent'
    end
  ) stored,
  -- For attachments: whose message it is, and where.
  unique (id, "consultationId", "senderId")
);

-- A page of a chat; unique through the id.
create unique index messages_page
on messages ("consultationId", "createdAt" desc, id) where "deletedAt" is null;
create unique index messages_unread
on messages ("consultationId", id) where "readAt" is null and "deletedAt" is null;

-- A client says that, not when: the time is the server's, and what was read stays read.
create function message_times() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if new."readAt" is not null then
    new."readAt" := now();
  end if;
  if coalesce(new."deliveredAt", new."readAt") is not null then
    new."deliveredAt" := now();
  end if;
  if new."deletedAt" is not null then
    new."deletedAt" := now();
  end if;
  new."readAt" := coalesce(old."readAt", new."readAt");
  new."deliveredAt" := coalesce(old."deliveredAt", new."deliveredAt");
  new."deletedAt" := coalesce(old."deletedAt", new."deletedAt");
  return new;
end
$$;
revoke all on function message_times() from public, anon, authenticated, service_role;

create trigger message_times before update on messages
for each row execute function message_times();

-- A message that is taken back is read by nobody but its sender, so nobody would hear of it.
create function message_deleted() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform realtime.send(
    jsonb_build_object('message_id', new.id), 'message_deleted',
    'consultation:' || new."consultationId", true
  );
  return null;
end
$$;
revoke all on function message_deleted() from public, anon, authenticated, service_role;

create trigger message_deleted after update of "deletedAt" on messages
for each row when (old."deletedAt" is null and new."deletedAt" is not null)
execute function message_deleted();

create table message_attachments (
  id uuid primary key default gen_random_uuid(),
  "messageId" uuid not null,
  "consultationId" uuid not null,
  "senderId" uuid not null default auth.uid(),
  "fileName" varchar(500) not null,
  -- Where it lies in the bucket; never a URL.
  "fileUrl" text not null unique,
  "fileSize" bigint not null check ("fileSize" between 0 and 52428800),
  "mimeType" varchar(100) not null,
  "createdAt" timestamptz not null default now(),
  -- To one's own message, and with a file of one's own in that consultation.
  foreign key ("messageId", "consultationId", "senderId")
    references messages (id, "consultationId", "senderId") on delete cascade,
  check (
    starts_with("fileUrl", 'consultations/' || "consultationId" || '/' || "senderId" || '/')
  )
);
create unique index message_attachments_message
on message_attachments ("messageId", "consultationId", "senderId", id);


-- Closed until they are guarded.
alter table messages enable row level security;
alter table message_attachments enable row level security;

-- Beside the guard's rules, and narrower: what the system says is not for clients to write.
create policy messages_of_people on messages as restrictive for insert to authenticated
with check (type <> 'system');

-- INSERT and UPDATE reach those who may read the row. DELETE is not asked about: it tells every
-- subscriber the deleted row's key, which is why messages are taken back by an update.
alter publication supabase_realtime add table messages;


-- Files --------------------------------------------------------------------------------------
insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values (
  'message-attachments', 'message-attachments', false, 52428800,
  array[
    'image/jpeg', 'image/png', 'image/gif', 'image/webp', 'image/heic',
    'application/pdf', 'application/rtf', 'text/plain', 'text/csv',
    'application/msword',
    'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
    'application/vnd.ms-excel',
    'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
    'application/vnd.ms-powerpoint',
    'application/vnd.openxmlformats-officedocument.presentationml.presentation',
    'application/zip', 'application/x-7z-compressed', 'application/vnd.rar',
    'audio/mpeg', 'audio/mp4', 'audio/ogg', 'audio/wav', 'audio/webm',
    'video/mp4', 'video/quicktime', 'video/webm'
  ]
)
on conflict (id) do update
set public = excluded.public, file_size_limit = excluded.file_size_limit,
  allowed_mime_types = excluded.allowed_mime_types;

-- Files that no message has: uploads whose message never came, and those whose message was taken
-- back. Only listed: the row is Storage's note of the file, and a row deleted by SQL leaves the file
-- behind for ever, so newer versions of Storage refuse that. What is listed goes through the Storage
-- API, at most 1000 at a time. For service_role alone.
create function orphaned_files(older_than interval default '1 day', most integer default 1000)
returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select o.name
  from storage.objects as o
  where o.bucket_id = 'message-attachments'
    and o.created_at < now() - older_than
    and not exists (
      select from public.message_attachments as a
      join public.messages as m on m.id = a."messageId"
      where a."fileUrl" = o.name
        and (m."deletedAt" is null or m."deletedAt" > now() - older_than)
    )
  order by o.created_at, o.name
  limit most
$$;
revoke all on function orphaned_files(interval, integer) from public, anon, authenticated;
grant execute on function orphaned_files(interval, integer) to service_role;
