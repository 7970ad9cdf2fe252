-- Ask as signed-in users, and undo whatever that did.
--
-- request: {asks, users: [{user, values}, …]}. An ask is one of
--   {kind: helper, name, arguments, each}: which of the values a policy's helper lets through;
--   {kind: rows, schema, table, column, expires, deleted, through, key}: for which of them a row can
--     be seen; with `through`, a parent as another such ask, in whose column `key` the column is
--     found, for which of the parent's column;
--   {kind: statement, schema, table, verb, row, attempt}: which policies hold for a row, and, if it
--     shall be attempted, what becomes of the statement.
-- Answers, by user and ask, {values, there} or {active, rows, state, policies: {name: holds}}, or
-- {state} for what failed, an SQLSTATE.
--
-- SECURITY INVOKER: a definer's function may not change its role. The role that logged
-- in may: the API's authenticator, or postgres. Names are quoted and looked up, values are typed, and
-- policies come out of the catalog: no SQL is taken from a caller.
create or replace function public.mirror_ask(request text) returns jsonb
language plpgsql security invoker set search_path = pg_catalog, pg_temp
-- Rows may be held by others; an attempt is not worth a wait.
set lock_timeout = '2s'
as $$
declare
  asked constant jsonb := request::jsonb;
  undo constant text := 'MR099';
  facts jsonb;
  fact jsonb;
  person jsonb;
  ask jsonb;
  number integer;
  part record;
  holds boolean;
  held jsonb;
  sample jsonb;
  value jsonb;
  rows bigint;
  told jsonb;
  answer jsonb;
  answers jsonb := '[]';
begin
  -- The catalog's facts, while this role may still read them.
  facts := public.mirror_trace(jsonb_build_object(
    'scopes', '[]'::jsonb,
    'asks', asked -> 'asks',
    'values', (
      select coalesce(jsonb_agg(distinct v), '[]')
      from jsonb_array_elements(asked -> 'users') as u, jsonb_array_elements(u -> 'values') as v
    )
  )::text) -> 'asks';

  for person in select p from jsonb_array_elements(asked -> 'users') as p loop
    answer := '[]';
    begin
      perform set_config('request.jwt.claims', jsonb_build_object(
        'sub', person ->> 'user', 'role', 'authenticated', 'aud', 'authenticated'
      )::text, true);
      -- As old versions of the API did, which auth.uid() would believe first.
      perform set_config('request.jwt.claim.sub', person ->> 'user', true);
      perform set_config('request.jwt.claim.role', 'authenticated', true);
      begin
        perform set_config('role', 'authenticated', true);
      exception when insufficient_privilege or invalid_parameter_value then
        raise exception '% may not act as a signed-in user', session_user
          using errcode = 'MR012', hint = format(
            'Connect as postgres, or run `grant authenticated to %I`.', session_user
          );
      end;

      for number in 0 .. jsonb_array_length(asked -> 'asks') - 1 loop
        ask := asked -> 'asks' -> number;
        fact := facts -> number;
        told := '{}';
        held := '{}';
        begin
          if ask ->> 'kind' <> 'helper' and not (fact ->> 'there')::boolean then
            raise undefined_table;
          elsif ask ->> 'kind' = 'helper' and (ask ->> 'each')::boolean then
            execute format(
              'select jsonb_build_object(''values'', coalesce(jsonb_agg(v), ''[]''))'
              ' from jsonb_array_elements_text($1) as v where mirror.%I(%s)',
              ask ->> 'name', array_to_string(array(
                select 'v::' || format_type(p.proargtypes[0], null) from pg_proc as p
                where p.pronamespace = 'mirror'::regnamespace and p.proname = ask ->> 'name'
                limit 1
              ) || array(
                select quote_literal(v) from jsonb_array_elements_text(ask -> 'arguments') as v
              ), ', ')
            ) into told using person -> 'values';
          elsif ask ->> 'kind' = 'helper' then
            execute format(
              'select jsonb_build_object(''values'', coalesce(jsonb_agg(v), ''[]''))'
              ' from jsonb_array_elements_text($1) as v'
              ' where v in (select unnest(mirror.%I(%s))::text)',
              ask ->> 'name', (
                select string_agg(quote_literal(v), ', ')
                from jsonb_array_elements_text(ask -> 'arguments') as v
              )
            ) into told using person -> 'values';
          elsif ask ->> 'kind' = 'rows' then
            execute format(
              'select jsonb_build_object(''there'', $2, ''values'', coalesce(jsonb_agg(v), ''[]''))'
              ' from jsonb_array_elements_text($1) as v'
              ' where exists (select from %s as t'
              '   where t.%I = any (array(select jsonb_array_elements_text($3 -> v))::%s[]))',
              fact ->> 'table', ask ->> 'column', fact ->> 'type'
            ) into told using person -> 'values', fact -> 'values', fact -> 'keys';
          else
            -- As Realtime does, for policies that call realtime.topic().
            perform set_config('realtime.topic', coalesce(ask #>> '{row,topic}', ''), true);
            sample := fact -> 'row';
            for part in select key, d from jsonb_each(fact -> 'defaults') as e (key, d) loop
              execute format('select to_jsonb((%s)::%s)', part.d ->> 'value', part.d ->> 'type')
              into value;
              sample := jsonb_build_object(part.key, value) || sample;
            end loop;
            for part in select p from jsonb_array_elements(fact -> 'policies') as e (p) loop
              begin
                holds := null;
                -- As the alias, the table's name: policies may speak of their columns by it.
                execute format(
                  'select (%s) is true and (%s) is true from jsonb_populate_record(null::%s, $1) as %I',
                  coalesce(part.p ->> 'using', 'true'), coalesce(part.p ->> 'check', 'true'),
                  fact ->> 'table', ask ->> 'table'
                ) into holds using sample;
              exception when others then
                null;
              end;
              held := held || jsonb_build_object(part.p ->> 'name', holds);
            end loop;
            told := jsonb_build_object(
              'active', row_security_active((fact ->> 'table')::text), 'policies', held
            );
            if (ask ->> 'attempt')::boolean then
              if ask ->> 'verb' = 'update' and fact -> 'change' = 'null' then
                raise insufficient_privilege;
              end if;
              execute (
                select case ask ->> 'verb'
                  when 'select' then format('select from %s as t where %s limit 1', w.name, w.same)
                  when 'insert' then format('insert into %s (%s) values (%s)', w.name, w.cols, w.vals)
                  when 'update' then format('update %s as t set %s where %s',
                    w.name, fact ->> 'change', w.same)
                  when 'delete' then format('delete from %s as t where %s', w.name, w.same)
                end
                from (
                  select fact ->> 'table' as name,
                    string_agg(format('t.%I = %L::%s', g.key, g.value, k.value), ' and ') as same,
                    string_agg(quote_ident(g.key), ', ') as cols,
                    string_agg(format('%L::%s', g.value, k.value), ', ') as vals
                  from jsonb_each_text(ask -> 'row') as g
                  join jsonb_each_text(fact -> 'types') as k on k.key = g.key
                ) as w
              );
              get diagnostics rows = row_count;
              told := told || jsonb_build_object('rows', rows);
              -- The next ask shall not see what this one did.
              raise exception using errcode = undo;
            end if;
          end if;
        exception when others then
          if sqlstate <> undo then
            told := told || jsonb_build_object('state', sqlstate);
          end if;
        end;
        answer := answer || jsonb_build_array(told);
      end loop;
      raise exception using errcode = undo;
    exception when sqlstate 'MR099' then
      -- The role is the caller's again, and nothing was written.
      null;
    end;
    answers := answers || jsonb_build_array(answer);
  end loop;
  return jsonb_build_object('facts', facts, 'answers', answers);
end
$$;

create or replace function public.mirror_examine(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.examine(request::jsonb) $$;
revoke all on function public.mirror_examine(text) from public, anon, authenticated;
grant execute on function public.mirror_examine(text) to service_role, mirror_writer;
