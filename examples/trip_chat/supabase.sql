-- The chat feature's own tables on Supabase.
--
-- They belong to the feature, not to the mirror. None references a mirrored table with ON DELETE
-- CASCADE: when a trip is deleted, its chat history must stay.
--
-- The permissions on them are declared in mappings/trips.py; `mirror migrate supabase --guards`
-- installs them. guards.sql in this folder is the SQL that it runs.


create table chat_messages (
  id uuid primary key default gen_random_uuid(),
  trip_id uuid not null,
  sender_id uuid not null default auth.uid(),
  content text not null check (content <> ''),
  created_at timestamptz not null default now()
);
-- For one page of a chat. The index is unique because it contains the id.
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


-- With row-level security and without policies, users cannot read or write, until the guards are
-- installed.
alter table chat_messages enable row level security;
alter table chat_reactions enable row level security;
alter table chat_read_receipts enable row level security;
alter table user_presence enable row level security;

alter publication supabase_realtime
add table chat_messages, chat_reactions, chat_read_receipts, user_presence;
