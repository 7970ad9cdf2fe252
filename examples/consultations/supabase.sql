-- The chat's own tables, bucket and clean-up on Supabase.
--
-- They belong to the chat, not to the mirror. No foreign key references a mirrored table, so that
-- the messages stay when a consultation is deleted. The permissions are declared in
-- mappings/consultations.py; `mirror migrate supabase --guards` installs them, `mirror ddl supabase
-- --guards` prints them.


-- Messages -----------------------------------------------------------------------------------
create table messages (
  id uuid primary key default gen_random_uuid(),
  "consultationId" uuid not null,
  -- NULL: a message of the system.
  "senderId" uuid default auth.uid(),
  content text not null check (content <> ''),
  type varchar(50) not null default 'text'
    check (type in ('text', 'image', 'document', 'audio', 'video', 'system')),
  "createdAt" timestamptz not null default now(),
  "deliveredAt" timestamptz,
  "readAt" timestamptz,
  "deletedAt" timestamptz,
  -- "Sending" is not among the values: only the sending client knows it. The others follow from the
  -- times.
  status text not null generated always as (
    case
      when "readAt" is not null then 'read'
      when "deliveredAt" is not null then 'delivered'
      else 'sent'
    end
  ) stored,
  -- For the foreign key of attachments: a message with its consultation and sender.
  unique (id, "consultationId", "senderId")
);

-- For one page of a chat. The index is unique because it contains the id.
create unique index messages_page
on messages ("consultationId", "createdAt" desc, id) where "deletedAt" is null;
create unique index messages_unread
on messages ("consultationId", id) where "readAt" is null and "deletedAt" is null;

-- If a client sets one of the times, the server's present time is stored, not the client's value. A
-- time that was set once never changes.
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

-- After a message is withdrawn, only its sender may read it, so Realtime's postgres_changes would
-- tell no other user about the update. This trigger broadcasts it.
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
  -- The file's path in the bucket, not a URL.
  "fileUrl" text not null unique,
  "fileSize" bigint not null check ("fileSize" between 0 and 52428800),
  "mimeType" varchar(100) not null,
  "createdAt" timestamptz not null default now(),
  -- The attachment's sender is the sender of the message and, by the path, of the file.
  foreign key ("messageId", "consultationId", "senderId")
    references messages (id, "consultationId", "senderId") on delete cascade,
  check (
    starts_with("fileUrl", 'consultations/' || "consultationId" || '/' || "senderId" || '/')
  )
);
create unique index message_attachments_message
on message_attachments ("messageId", "consultationId", "senderId", id);


-- With row-level security and without policies, users cannot read or write, until the guards are
-- installed.
alter table messages enable row level security;
alter table message_attachments enable row level security;

-- In addition to the guard's rules: clients may not write messages of the system.
create policy messages_of_people on messages as restrictive for insert to authenticated
with check (type <> 'system');

-- Realtime sends an INSERT or UPDATE only to users who may read the row. It cannot check that for a
-- DELETE, and sends the deleted row's key to every subscriber. So a message is withdrawn by an
-- update.
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

-- Returns the paths of files without a message: the message was never sent, or it was withdrawn.
-- It does not delete them: the row is only Storage's record of the file, and without the row the
-- file would stay for ever, so newer versions of Storage refuse that. Delete the listed files
-- through the Storage API, at most 1000 at a time. Only service_role may call this function.
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
