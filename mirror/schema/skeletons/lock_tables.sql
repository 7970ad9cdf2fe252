-- Writers of these tables wait meanwhile. A transaction that waits for one table while it holds another
-- could be in a deadlock with a writer, and the writer would lose: so wait for the first one only.
do $$
declare
  deadline constant timestamptz := clock_timestamp() + interval '10 seconds';
begin
  perform set_config('lock_timeout', '5s', true);
  loop
    begin
      lock table {first} in {mode} mode;
      {lock_others}
      return;
    exception when lock_not_available then
      if clock_timestamp() > deadline then
        raise exception '{tables} are too busy to {purpose}'
          using errcode = '55P03', hint = 'Nothing has changed; try again.';
      end if;
      perform pg_sleep(0.05);
    end;
  end loop;
end
$$;
