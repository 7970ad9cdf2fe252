-- The application's own tables on Supabase.
--
-- Who may do what to them is declared in mappings/grants.py, by the level at which a workspace or a
-- view is reached; `mirror migrate supabase --guards` installs it, `mirror ddl supabase --guards`
-- prints it. None references a mirrored table: what is shared no more is not thrown away.


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


-- Closed until they are guarded.
alter table data_tables enable row level security;
alter table view_comments enable row level security;
