-- The application's own tables on Supabase.
--
-- Who may do what to them is declared in mappings/rbac.py, by the names of permissions;
-- `mirror migrate supabase --guards` installs it, `mirror ddl supabase --guards` prints it. None
-- references a mirrored table: a user who goes must not take reports along.


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


-- Closed until they are guarded.
alter table profiles enable row level security;
alter table reports enable row level security;
