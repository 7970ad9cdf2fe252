-- The application's own tables on Supabase.
--
-- The rules for them are declared in mappings/rbac.py, by the names of permissions;
-- `mirror migrate supabase --guards` installs them, `mirror ddl supabase --guards` prints them. No
-- table references a mirrored one: when a user is deleted, the reports must stay.


create table profiles (
  user_id uuid primary key,
  biography text not null default ''
);

create table reports (
  id uuid primary key default gen_random_uuid(),
  author_id uuid not null default auth.uid(),
  title text not null,
  body text not null default '',
  created_at timestamptz not null default now()
);


-- With row-level security and without policies, users cannot read or write, until the guards are
-- installed.
alter table profiles enable row level security;
alter table reports enable row level security;
