-- The guards of rbac: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model rbac; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_guarded('rbac', 'public.profiles',
  '{"user_id": "uuid", "biography": null}'
);
select mirror.add_index('public.profiles', 'user_id');


select mirror.check_guarded('rbac', 'public.reports',
  '{"author_id": "uuid", "title": null, "body": null}'
);
select mirror.add_index('public.reports', 'author_id');


-- Those of an earlier version of these declarations.
select mirror.drop_guards('rbac');


-- profiles: rows count for whoever has the permission.
alter table public.profiles enable row level security;
revoke all on public.profiles from public, anon, authenticated;
grant select, insert, update (biography), delete
on public.profiles to authenticated;

create policy mirror_rbac_read on public.profiles for select to authenticated
using (
  (user_id = (select auth.uid()) and (select mirror.has_permission('profile.read')))
  or (select mirror.has_permission('users.read'))
);

create policy mirror_rbac_insert on public.profiles for insert to authenticated
with check ((select mirror.has_permission('users.create')));

create policy mirror_rbac_update on public.profiles for update to authenticated
using (
  (user_id = (select auth.uid()) and (select mirror.has_permission('profile.update')))
  or (select mirror.has_permission('users.update'))
)
with check (
  (user_id = (select auth.uid()) and (select mirror.has_permission('profile.update')))
  or (select mirror.has_permission('users.update'))
);

create policy mirror_rbac_delete on public.profiles for delete to authenticated
using ((select mirror.has_permission('users.delete')));


-- reports: rows count for whoever has the permission.
alter table public.reports enable row level security;
revoke all on public.reports from public, anon, authenticated;
grant select, insert (title, body), delete
on public.reports to authenticated;

create policy mirror_rbac_read on public.reports for select to authenticated
using ((select mirror.has_permission('dashboard.view')));

create policy mirror_rbac_insert on public.reports for insert to authenticated
with check (author_id = (select auth.uid()) and (select mirror.has_permission('reports.generate')));

create policy mirror_rbac_delete on public.reports for delete to authenticated
using (author_id = (select auth.uid()) and (select mirror.has_permission('reports.generate')));
