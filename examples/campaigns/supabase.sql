-- The game's own tables on Supabase.
--
-- They belong to the game, not to the mirror: none references a mirrored table. The permissions are
-- declared in mappings/campaigns.py; `mirror migrate supabase --guards` installs them, `mirror ddl
-- supabase --guards` prints them.

create table character_sheets (
  character_id bigint primary key,
  body jsonb not null default '{}'
);

create table source_entries (
  id bigint primary key generated always as identity,
  source_id bigint not null,
  body text not null
);

create table campaign_log (
  id uuid primary key default gen_random_uuid(),
  campaign_id bigint not null,
  author_id uuid not null default auth.uid(),
  body text not null,
  -- For a rumour: the time from which no user can read it any more. NULL: there is none.
  expires_at timestamptz,
  created_at timestamptz not null default now()
);
create unique index campaign_log_page on campaign_log (campaign_id, created_at desc, id);

create table log_comments (
  id uuid primary key default gen_random_uuid(),
  log_id uuid not null references campaign_log on delete cascade,
  author_id uuid not null default auth.uid(),
  body text not null
);

create table comment_notes (
  id uuid primary key default gen_random_uuid(),
  comment_id uuid not null references log_comments on delete cascade,
  body text not null
);


-- With row-level security and without policies, users cannot read or write, until the guards are
-- installed.
alter table character_sheets enable row level security;
alter table source_entries enable row level security;
alter table campaign_log enable row level security;
alter table log_comments enable row level security;
alter table comment_notes enable row level security;
