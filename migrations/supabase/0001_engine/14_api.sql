-- The doors. SECURITY DEFINER, because service_role itself has no right to the schema; arguments
-- are text, which every client of the REST API can send unchanged.
create or replace function public.mirror_apply(request text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.apply(request::jsonb) $$;

create or replace function public.mirror_open_scopes(request text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.open_scopes(request::jsonb) $$;

create or replace function public.mirror_withhold(request text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.withhold(request::jsonb) $$;

create or replace function public.mirror_step(request text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.step(request::jsonb) $$;

create or replace function public.mirror_digest(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.digest(request::jsonb) $$;

create or replace function public.mirror_survey(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.survey(request::jsonb) $$;

create or replace function public.mirror_rows(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.rows(request::jsonb) $$;

create or replace function public.mirror_expired(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.expired(request::jsonb) $$;

-- The timeout is for PostgREST, which sets it for the call: looking for what is old may take longer
-- than API sessions otherwise get.
create or replace function public.mirror_purge(age text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '55s'
as $$ select mirror.purge(age::interval) $$;

create or replace function public.mirror_rebase(identity text, epoch text) returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.rebase(identity, epoch::integer) $$;

create or replace function public.mirror_describe() returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.describe() $$;

create or replace function public.mirror_trace(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.trace(request::jsonb) $$;
