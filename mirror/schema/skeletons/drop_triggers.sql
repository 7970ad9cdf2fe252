do $$
declare
  old record;
begin
  for old in
    select t.tgname, t.tgrelid::regclass as source
    from pg_trigger as t
    join pg_proc as f on f.oid = t.tgfoid
    where f.pronamespace = 'mirror'::regnamespace
      and t.tgname ~ {pattern}
      {and_not_kept}
  loop
    execute format('drop trigger %I on %s', old.tgname, old.source);
  end loop;
  for old in
    select f.proname
    from pg_proc as f
    where f.pronamespace = 'mirror'::regnamespace
      and obj_description(f.oid, 'pg_proc') = {comment}
      {and_not_kept}
  loop
    execute format('drop function mirror.%I()', old.proname);
  end loop;
end
$$;
