-- The guards of grants: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model grants; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_guarded('grants', 'public.data_tables',
  '{"workspace_id": "uuid", "id": null, "name": null}'
);
select mirror.add_index('public.data_tables', 'workspace_id');


select mirror.check_guarded('grants', 'public.view_comments',
  '{"table_view_id": "uuid", "author_id": "uuid", "content": null}'
);
select mirror.add_index('public.view_comments', 'table_view_id');


-- Those of an earlier version of these declarations.
select mirror.drop_guards('grants');


-- data_tables: rows count for whoever belongs to their workspace.
alter table public.data_tables enable row level security;
revoke all on public.data_tables from public, anon, authenticated;
grant select, insert (id, workspace_id, name), update (name), delete
on public.data_tables to authenticated;

create policy mirror_grants_read on public.data_tables for select to authenticated
using (workspace_id = any((select mirror.my_resources('workspace', 'read'))::uuid[]));

create policy mirror_grants_insert on public.data_tables for insert to authenticated
with check (workspace_id = any((select mirror.my_resources('workspace', 'write'))::uuid[]));

create policy mirror_grants_update on public.data_tables for update to authenticated
using (workspace_id = any((select mirror.my_resources('workspace', 'write'))::uuid[]))
with check (workspace_id = any((select mirror.my_resources('workspace', 'write'))::uuid[]));

create policy mirror_grants_delete on public.data_tables for delete to authenticated
using (workspace_id = any((select mirror.my_resources('workspace', 'admin'))::uuid[]));


-- view_comments: rows count for whoever belongs to their table view.
alter table public.view_comments enable row level security;
revoke all on public.view_comments from public, anon, authenticated;
grant select, insert (table_view_id, content), delete
on public.view_comments to authenticated;

create policy mirror_grants_read on public.view_comments for select to authenticated
using (table_view_id = any((select mirror.my_resources('table_view', 'read'))::uuid[]));

create policy mirror_grants_insert on public.view_comments for insert to authenticated
with check (
  author_id = (select auth.uid())
  and table_view_id = any((select mirror.my_resources('table_view', 'write'))::uuid[])
);

create policy mirror_grants_delete on public.view_comments for delete to authenticated
using (
  (
    author_id = (select auth.uid())
    and table_view_id = any((select mirror.my_resources('table_view', 'read'))::uuid[])
  )
  or table_view_id = any((select mirror.my_resources('table_view', 'admin'))::uuid[])
);
