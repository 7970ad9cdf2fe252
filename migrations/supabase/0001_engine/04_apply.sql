-- The statements that know a mapping only by name are made of its declaration: `mirror.parts` has
-- what differs from mapping to mapping, and `mirror.fill` puts it into a statement's text. Values are
-- never part of a text. Only the function that writes rows is printed for each mapping
-- (`apply_<mapping>`): its plan is kept.

-- Return a statement with each `{name}` replaced by that part. One pass, so that braces in a name of
-- the user's are left alone.
create or replace function mirror.fill(statement text, parts jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select string_agg(
    -- A part that does not exist stays, and is a syntax error; null would disappear.
    case when place % 2 = 0 then coalesce(parts ->> piece, '{' || piece || '}') else piece end,
    '' order by place
  )
  from regexp_split_to_table(statement, '[{}]') with ordinality as p (piece, place)
$$;


-- Return the parts of statements about a mapping: quoted names and lists of them. The aliases are t
-- for the mirrored table, l for its ledger, s and f for what a statement selects from either, g for a
-- key as a JSON array.
create or replace function mirror.parts(mapping text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  declared jsonb;
  parts jsonb;
begin
  select m.declaration into strict declared from mirror.mappings as m where m.name = mapping;
  -- The key's columns.
  select jsonb_build_object(
    'first_key', min(k.name) filter (where k.place = 1),
    't_key', string_agg('t.' || k.name, ', ' order by k.place),
    'l_key', string_agg('l.' || k.name, ', ' order by k.place),
    's_key', string_agg('s.' || k.name, ', ' order by k.place),
    'f_key', string_agg('f.' || k.name, ', ' order by k.place),
    's_texts', string_agg(format('s.%s::text', k.name), ', ' order by k.place),
    'f_texts', string_agg(format('f.%s::text', k.name), ', ' order by k.place),
    'l_texts', string_agg(format('l.%s::text', k.name), ', ' order by k.place),
    't_is_l', string_agg(format('t.%1$s = l.%1$s', k.name), ' and ' order by k.place),
    't_is_g', string_agg(
      format('t.%s = (g.value ->> %s)::%s', k.name, k.place - 1, k.type), ' and ' order by k.place
    ),
    'l_is_g', string_agg(
      format('l.%s = (g.value ->> %s)::%s', k.name, k.place - 1, k.type), ' and ' order by k.place
    ),
    -- The columns k1, k2, … of either relation, or of both.
    't_numbered', string_agg(format('t.%s as k%s', k.name, k.place), ', ' order by k.place),
    'l_numbered', string_agg(format('l.%s as k%s', k.name, k.place), ', ' order by k.place),
    'any_numbered', string_agg(
      format('coalesce(t.%1$s, l.%1$s)::text as k%2$s', k.name, k.place), ', ' order by k.place
    ),
    'numbers', string_agg(format('k.k%s', k.place), ', ' order by k.place),
    'number_texts', string_agg(format('k.k%s::text', k.place), ', ' order by k.place),
    -- The hash of a key with the seed $1: that of a column is the seed of the next one's.
    't_key_hash', string_agg(format(k.hash, 't.' || k.name), '' order by k.place desc)
      || '$1' || repeat(')', count(*)::integer),
    'l_key_hash', string_agg(format(k.hash, 'l.' || k.name), '' order by k.place desc)
      || '$1' || repeat(')', count(*)::integer),
    -- A key in the statement's parameters: $1 is a text array.
    'bound', string_agg(
      format('$1[%s]::%s%s', k.place, k.type, k.collated), ', ' order by k.place
    ),
    'end', string_agg(format('$2[%s]::%s%s', k.place, k.type, k.collated), ', ' order by k.place),
    'first_bound', min(format('$1[1]::%s%s', k.type, k.collated)) filter (where k.place = 1),
    'first_end', min(format('$2[1]::%s%s', k.type, k.collated)) filter (where k.place = 1)
  )
  into parts
  from (
    select key.place, quote_ident(key.name) as name, col.value ->> 1 as type,
      case col.value ->> 1 when 'text' then ' collate "C"' else '' end as collated,
      case col.value ->> 1
        when 'uuid' then 'uuid_hash_extended(%s, '
        when 'smallint' then 'hashint2extended(%s, '
        when 'integer' then 'hashint4extended(%s, '
        when 'bigint' then 'hashint8extended(%s, '
        else 'hashtextextended(%s collate "C", '
      end as hash
    from jsonb_array_elements_text(declared -> 'key') with ordinality as key (name, place)
    join jsonb_array_elements(declared -> 'columns') as col on col.value ->> 0 = key.name
  ) as k;
  -- The values of a row: the table's columns, then the references that only the ledger has.
  parts := parts || (
    select jsonb_build_object(
      'row_texts', string_agg(v.value || '::text', ', ' order by v.in_ledger, v.place),
      'row_values', string_agg(v.value || '::text collate "C"', ', ' order by v.in_ledger, v.place),
      -- The columns c1, c2, … of either relation.
      't_values', coalesce(string_agg(
        format(', %s::text collate "C" as c%s', v.value, v.place), '' order by v.place
      ) filter (where v.data), ''),
      'l_values', coalesce(string_agg(
        format(', %s::text collate "C" as c%s', v.value, v.place), '' order by v.place
      ) filter (where v.in_ledger), ''),
      't_numbers', coalesce(string_agg(', k.c' || v.place, '' order by v.place)
        filter (where v.data), ''),
      'l_numbers', coalesce(string_agg(', k.c' || v.place, '' order by v.place)
        filter (where v.in_ledger), ''),
      -- The hash of such a row without md5; $1 is the seed. No value equals the text for null, because
      -- the seed is another one each time.
      't_values_hash', coalesce(string_agg(
        format('hashtextextended(coalesce(k.c%s, ''null '' || $1), ', v.place), ''
        order by v.place desc
      ) filter (where v.data), '') || 'hashint8extended(k.key_hash, $1)'
        || repeat(')', (count(*) filter (where v.data))::integer),
      'l_values_hash', coalesce(string_agg(
        format('hashtextextended(coalesce(k.c%s, ''null '' || $1), ', v.place), ''
        order by v.place desc
      ) filter (where v.in_ledger), '') || 'hashint8extended(k.key_hash, $1 + 1)'
        || repeat(')', (count(*) filter (where v.in_ledger))::integer),
      't_nulls', string_agg(v.value || ' is null', ' and ' order by v.place) filter (where v.data),
      'set_nulls', string_agg(v.name || ' = null', ', ' order by v.place) filter (where v.data)
    )
    from (
      select c.place, quote_ident(c.value ->> 0) as name, 't.' || quote_ident(c.value ->> 0) as value,
        false as in_ledger, not declared -> 'key' ? (c.value ->> 0) as data
      from jsonb_array_elements(declared -> 'columns') with ordinality as c (value, place)
      union all
      select r.place, null, 'l.' || quote_ident('ref_' || (r.value ->> 0)), true, false
      from jsonb_array_elements(declared -> 'references') with ordinality as r (value, place)
      where not exists (
        select from jsonb_array_elements(declared -> 'columns') as c
        where c.value ->> 0 = r.value ->> 0
      )
    ) as v
  );
  return parts || jsonb_build_object(
    'table', format('%I.%I', declared #>> '{table,0}', declared #>> '{table,1}'),
    'ledger', format('mirror.%I', 'ledger_' || mapping),
    -- A visible row that was withdrawn, but whose bare key had to stay: with its ledger row l at
    -- hand, and without.
    'bare', case
      when parts ->> 't_nulls' is null and declared ->> 'on_delete' = 'delete' then 'false'
      else concat_ws(' and ', parts ->> 't_nulls', 'l.present is false')
    end,
    'bare_alone', case
      when parts ->> 't_nulls' is null and declared ->> 'on_delete' = 'delete' then 'false'
      else concat_ws(' and ', parts ->> 't_nulls', mirror.fill(
        -- As a value: EXISTS would read the whole ledger first.
        '(select l.present is false from {ledger} as l where {t_is_l}) is true',
        parts || jsonb_build_object('ledger', format('mirror.%I', 'ledger_' || mapping))
      ))
    end,
    'expired', case when declared ? 'expires'
      then format('t.%I <= now()', declared ->> 'expires') else 'false' end,
    'on_delete', declared -> 'on_delete', 'children', declared -> 'children',
    'parents', declared -> 'parents', 'key', declared -> 'key', 'references', declared -> 'references'
  );
end
$$;


-- Return the condition that a row `l` of a ledger has one of the expected values of a reference, as SQL.
-- `expected` is an expression of type text[]. Null: the mapping of these parts has no such reference.
--
-- A column of the key that refers to a parent has an index in the mirrored table, and so none in the
-- ledger. A ledger row whose visible row somebody has deleted is not found there; it grants nothing, and
-- a reconcile reports it.
create or replace function mirror.has_reference(parts jsonb, reference text, expected text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select mirror.fill(
    case
      when not parts -> 'key' ? reference then 'l.{ref_column} = any (({expected})::{type}[])'
      when parts #>> '{key,0}' <> reference and exists (
        select from jsonb_array_elements(parts -> 'parents') as p where p.value ->> 1 = reference
      )
      then '({l_key}) in ('
        'select {t_key} from {table} as t where t.{column} = any (({expected})::{type}[]))'
      else 'l.{column} = any (({expected})::{type}[])'
    end,
    parts || jsonb_build_object(
      'column', quote_ident(reference), 'ref_column', quote_ident('ref_' || reference),
      'type', r.value ->> 1, 'expected', expected
    )
  )
  from jsonb_array_elements(parts -> 'references') as r
  where r.value ->> 0 = reference
$$;
drop function if exists mirror.ledger_column(text, text);


-- Remove the visible rows of keys that the ledger has as absent, their children first. Returns, by
-- mapping, the keys of rows that a foreign key of somebody else's table holds back.
create or replace function mirror.withdraw(
  mapping text, p_epoch integer, p_fence bigint, p_keys jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  parts constant jsonb := mirror.parts(mapping);
  deleting constant text := mirror.fill(
    'delete from {table} as t using jsonb_array_elements($1) as g where {t_is_g}', parts
  );
  -- Null: there is nothing but the key.
  emptying constant text := case when parts ->> 'set_nulls' is not null then mirror.fill(
    'update {table} as t set {set_nulls} from jsonb_array_elements($1) as g where {t_is_g}', parts
  ) end;
  retained jsonb := '{}';
  held jsonb := '[]';
  -- Keys whose rows stay as they were.
  kept jsonb := '[]';
  child record;
  child_parts jsonb;
  gone jsonb;
  one jsonb;
begin
  for child in
    select c.value ->> 0 as name, c.value ->> 1 as reference
    from jsonb_array_elements(parts -> 'children') as c
  loop
    -- Close the scope, so that no hung write brings a child back; then take the children.
    insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
    select child.name, child.reference, k ->> 0, p_epoch, p_fence
    from jsonb_array_elements(p_keys) as k
    on conflict on constraint scopes_pkey do update
    set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
    where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
    child_parts := mirror.parts(child.name);
    execute mirror.fill(
      'with forgotten as ('
      ' update {ledger} as l'
      ' set present = false, epoch = $1, applied_at = now(),'
      ' fence = case when l.epoch = $1 then greatest(l.fence, $2) else $2 end'
      ' where l.present and {is_child}'
      ' returning {l_key}'
      ') select jsonb_agg(jsonb_build_array({l_texts})) from forgotten as l',
      child_parts || jsonb_build_object('is_child', mirror.has_reference(
        child_parts, child.reference, 'array(select k.value ->> 0 from jsonb_array_elements($3) as k)'
      ))
    ) into gone using p_epoch, p_fence, p_keys;
    if gone is not null then
      retained := retained || mirror.withdraw(child.name, p_epoch, p_fence, gone);
    end if;
  end loop;

  if parts ->> 'on_delete' = 'retain' then
    if emptying is null then
      kept := p_keys;
    else
      execute emptying using p_keys;
    end if;
  else
    -- A deferred foreign key must speak up here, not at commit.
    set constraints all immediate;
    begin
      execute deleting using p_keys;
    exception when foreign_key_violation or restrict_violation then
      if emptying is null and parts -> 'children' = '[]' then
        -- The bare key would still grant.
        raise;
      end if;
      -- A row that is held back must not stop the others, and must grant nothing: only the bare key
      -- stays.
      for one in select jsonb_build_array(value) from jsonb_array_elements(p_keys) loop
        begin
          execute deleting using one;
        exception when foreign_key_violation or restrict_violation then
          if emptying is null then
            kept := kept || one;
          else
            execute emptying using one;
          end if;
          held := held || one;
        end;
      end loop;
      retained := retained || jsonb_build_object(mapping, held);
    end;
  end if;
  if mirror.may_be_altered((parts ->> 'table')::regclass) then
    perform mirror.check_written(mapping, '[]', p_keys, jsonb_build_object('stale', kept));
  end if;
  return retained;
end
$$;


-- Correct the ledgers of parents whose rows somebody deleted by hand, so that the rows of this
-- request wait for them. The worker asks for it after a foreign key has refused the request.
create or replace function mirror.forget_lost_parents(request jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  parent record;
begin
  for parent in
    select s -> 'rows' as rows, c.place - 1 as place, p.name,
      p.declaration #>> '{key,0}' as key, p.declaration #>> '{table,0}' as schema_name,
      p.declaration #>> '{table,1}' as table_name, c.declared ->> 1 as type
    from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    cross join jsonb_array_elements(m.declaration -> 'parents') as link
    join mirror.mappings as p on p.name = link ->> 0
    join jsonb_array_elements(m.declaration -> 'columns') with ordinality as c (declared, place)
      on c.declared ->> 0 = link ->> 1
  loop
    execute format(
      'update mirror.%1$I as l set present = false, applied_at = now()'
      ' where l.present and l.%2$I in ('
      ' select (r.value ->> $2)::%3$s from jsonb_array_elements($1) as r)'
      ' and not exists (select from %4$I.%5$I as t where t.%2$I = l.%2$I)',
      'ledger_' || parent.name, parent.key, parent.type, parent.schema_name, parent.table_name
    ) using parent.rows, parent.place::integer;
  end loop;
end
$$;


-- Return those of these parents' keys that have too many children for one statement, after marking
-- them: their access ends at once, and the worker removes the children page by page.
create or replace function mirror.mark_large(
  mapping text, p_epoch integer, p_fence bigint, p_keys jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- So many children are deleted in one call; of those with children of their own, fewer.
  most constant integer := 2000;
  most_parents constant integer := 20;
  parts constant jsonb := mirror.parts(mapping);
  child record;
  child_parts jsonb;
  large jsonb := '[]';
  found jsonb;
begin
  for child in
    select c.value ->> 0 as name, c.value ->> 1 as reference,
      case when m.is_parent then most_parents else most end as most
    from jsonb_array_elements(parts -> 'children') as c
    join mirror.mappings as m on m.name = c.value ->> 0
  loop
    child_parts := mirror.parts(child.name);
    execute mirror.fill(
      'select jsonb_agg(g.value) from jsonb_array_elements($1) as g'
      ' where not $2 @> jsonb_build_array(g.value) and ('
      ' select count(*) from ('
      ' select from {ledger} as l where l.present and {is_child} limit $3) as c) = $3',
      child_parts || jsonb_build_object(
        'is_child', mirror.has_reference(child_parts, child.reference, 'array[g.value ->> 0]')
      )
    ) into found using p_keys, large, child.most;
    large := large || coalesce(found, '[]');
  end loop;
  if large <> '[]' then
    -- Not those of which a newer read is known.
    execute mirror.fill(
      'select coalesce(jsonb_agg(g.value), ''[]'') from jsonb_array_elements($1) as g'
      ' join {ledger} as l on {l_is_g} where (l.epoch, l.fence) <= ($2, $3)', parts
    ) into large using large, p_epoch, p_fence;
    perform mirror.mark(mapping, key.value, 'withdrawing', p_epoch, p_fence)
    from jsonb_array_elements(large) as key;
  end if;
  return large;
end
$$;


-- Whether something of a user's on a table, a trigger or a rule, may alter what is written to it.
create or replace function mirror.may_be_altered(wanted regclass) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from pg_trigger as t join pg_proc as p on p.oid = t.tgfoid
    where t.tgrelid = wanted and not t.tgisinternal and t.tgenabled in ('O', 'A')
      and p.pronamespace <> 'mirror'::regnamespace
  ) or exists (
    select from pg_rewrite as r where r.ev_class = wanted and r.ev_type <> '1'
  );
end
$$;


-- Refuse a call whose rows are not there as they were sent, because a trigger or a rule changed or
-- dropped the write.
create or replace function mirror.check_written(
  mapping text, p_rows jsonb, p_gone jsonb, answer jsonb
) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  parts constant jsonb := mirror.parts(mapping);
  wanted constant regclass := parts ->> 'table';
  altered boolean;
begin
  execute mirror.fill(
    'select exists ('
    ' select from jsonb_array_elements($1) as g left join {table} as t on {t_is_row}'
    ' where mirror.key_of($4, g.value) not in (select mirror.refused($3)) and ({differs})'
    ') or exists ('
    ' select from jsonb_array_elements($2) as g join {table} as t on {t_is_g}'
    ' where g.value not in (select mirror.refused($3)) and ({t_nulls}) is not true'
    ')',
    parts || jsonb_build_object('t_nulls', coalesce(parts ->> 't_nulls', 'false')) || (
      select jsonb_build_object(
        't_is_row', string_agg(
          format('t.%I = (g.value ->> %s)::%s', c.value ->> 0, c.place - 1, c.value ->> 1), ' and '
        ) filter (where m.declaration -> 'key' ? (c.value ->> 0)),
        'differs', string_agg(
          format(
            't.%I is distinct from (g.value ->> %s)::%s', c.value ->> 0, c.place - 1, c.value ->> 1
          ), ' or '
        )
      )
      from mirror.mappings as m
      cross join jsonb_array_elements(m.declaration -> 'columns') with ordinality as c (value, place)
      where m.name = check_written.mapping
    )
  ) into altered using p_rows, coalesce(nullif(p_gone, 'null'), '[]'), answer, mapping;
  if altered then
    raise exception 'a trigger or a rule of table % alters what is written', wanted
      using errcode = 'MR021', hint = 'Remove it: `mirror doctor` names it.';
  end if;
end
$$;


-- Write one batch, all of it or nothing, refusing per key what is older than what is known.
-- ARCHITECTURE.md describes the request and the answer.
create or replace function mirror.apply(request jsonb) returns jsonb
-- The planner would make a plan for each request, which takes longer than to run it.
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  section record;
  answer jsonb;
  answers jsonb := '{}';
  large jsonb;
  returning_keys jsonb;
  fence constant bigint := (request ->> 'fence')::bigint;
  pages constant boolean := coalesce((request ->> 'pages')::boolean, false);
  careful constant boolean := coalesce((request ->> 'careful')::boolean, false);
  alone boolean := careful;
  may_be_altered boolean;
  some_withheld boolean;
  horizon bigint;
begin
  -- Mostly nothing is gone, and to see that takes no query.
  if not alone and jsonb_path_exists(request, '$.sections[*].gone[*]') then
    alone := exists (
      select from jsonb_array_elements(request -> 'sections') as s
      join mirror.mappings as m on m.name = s ->> 'mapping'
      where m.is_parent and jsonb_array_length(s -> 'gone') > 0
    );
  end if;
  horizon := mirror.admit(request, alone);
  if fence < horizon then
    return jsonb_build_object('horizon', horizon, 'mappings', answers);
  end if;

  if careful then
    perform mirror.forget_lost_parents(request);
  end if;
  for section in
    select m.name, m.is_parent, s -> 'rows' as rows, s -> 'gone' as gone,
      to_regclass(format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}'))
        as relation
    from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    order by m.position
  loop
    large := '[]';
    returning_keys := '[]';
    -- A worker of an earlier version would take such a parent for deleted.
    if section.is_parent and section.gone <> '[]' and pages then
      large := mirror.mark_large(
        section.name, (request ->> 'epoch')::integer, fence, section.gone
      );
      section.gone := (
        select coalesce(jsonb_agg(value), '[]') from jsonb_array_elements(section.gone)
        where not large @> jsonb_build_array(value)
      );
    end if;
    -- A parent is withdrawn to the end before it is written again: children that went with it must
    -- not come back with it.
    if section.is_parent and exists (
      select from mirror.withheld as w
      where w.mapping = section.name and w.reason = 'withdrawing'
    ) then
      select coalesce(jsonb_agg(r.key) filter (where w.key is not null), '[]'),
        coalesce(jsonb_agg(r.value) filter (where w.key is null), '[]')
      into returning_keys, section.rows
      from (
        select value, mirror.key_of(section.name, value) as key
        from jsonb_array_elements(section.rows)
      ) as r
      left join mirror.withheld as w
        on w.mapping = section.name and w.reason = 'withdrawing' and to_jsonb(w.key) = r.key;
    end if;
    -- Of this transaction alone: tells the function that rows are withdrawn here.
    perform set_config('mirror.withdraws', 'true', true);
    execute format('select mirror.%I($1, $2, $3, $4)', 'apply_' || section.name)
      into answer
      using (request ->> 'epoch')::integer, fence, section.rows, section.gone;
    -- The functions of earlier versions withdraw by themselves, and have no such field. A leaf's
    -- function does so, too, unless a foreign key holds a row back.
    if answer ->> 'gone' is not null then
      answer := answer || jsonb_build_object('retained', case
        when answer ? 'withdrawn' then '{}'
        else mirror.withdraw(
          section.name, (request ->> 'epoch')::integer, fence, answer -> 'gone'
        )
      end);
    end if;
    -- Mostly there is neither, and one look for both is cheap.
    select mirror.may_be_altered(section.relation),
      exists (select from mirror.withheld as w where w.mapping = section.name)
    into may_be_altered, some_withheld;
    if may_be_altered then
      -- `mirror.withdraw` has looked at what it withdrew.
      perform mirror.check_written(
        section.name, section.rows, case when answer ? 'withdrawn' then answer -> 'gone' end, answer
      );
    end if;
    -- A worker of an earlier version does not know such keys; its events wait.
    answer := (answer - 'gone' - 'withdrawn') || jsonb_build_object(
      'large', case when pages then large || returning_keys else large end,
      'stale', case when pages then answer -> 'stale'
        else answer -> 'stale' || returning_keys end
    );
    if some_withheld then
      perform mirror.release(
        section.name, (request ->> 'epoch')::integer, fence, section.rows, section.gone, answer
      );
    end if;
    answers := answers || jsonb_build_object(section.name, answer);
  end loop;
  return jsonb_build_object('horizon', null, 'mappings', answers);
end
$$;
