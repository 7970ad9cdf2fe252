-- The backend's tables: owners, and which character and source belongs to which campaign. Users are
-- ids that Supabase Auth assigned.

create table characters (
  id bigint primary key generated always as identity,
  owner_id uuid not null,
  name text not null
);
create index characters_owner on characters (owner_id);

create table campaigns (
  id bigint primary key generated always as identity,
  dm_id uuid not null,
  name text not null
);

-- Users who belong to a campaign without a character: their role, and until when.
create table campaign_members (
  campaign_id bigint not null references campaigns on delete cascade,
  user_id uuid not null,
  role text not null check (role in ('SPECTATOR', 'PLAYER', 'DM')),
  expires_at timestamptz,
  primary key (campaign_id, user_id)
);

create table campaign_characters (
  campaign_id bigint not null references campaigns on delete cascade,
  character_id bigint not null references characters on delete cascade,
  primary key (campaign_id, character_id)
);
create index campaign_characters_character on campaign_characters (character_id);

create table sources (
  id bigint primary key generated always as identity,
  owner_id uuid not null,
  is_private boolean not null default true,
  campaign_id bigint references campaigns on delete set null,
  title text not null
);
create index sources_campaign on sources (campaign_id);
