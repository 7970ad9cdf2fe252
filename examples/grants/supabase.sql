-- The application's own tables on Supabase.
--
-- The permissions on them are declared in mappings/grants.py, by a user's level on a workspace or a
-- view; `mirror migrate supabase --guards` installs them, `mirror ddl supabase --guards` prints
-- them. No table references a mirrored one: when a right is revoked, no data is deleted.


create table data_tables (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  name text not null
);

create table view_comments (
  id uuid primary key default gen_random_uuid(),
  table_view_id uuid not null,
  author_id uuid not null default auth.uid(),
  content text not null,
  created_at timestamptz not null default now()
);


-- With row-level security and without policies, users cannot read or write, until the guards are
-- installed.
alter table data_tables enable row level security;
alter table view_comments enable row level security;
