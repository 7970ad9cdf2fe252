if answer ->> 'gone' is not null
  and current_setting('mirror.withdraws', true) is distinct from 'true'
then
  -- The call began before a migration, with a mirror.apply that leaves rows to this function.
  raise exception 'the target was migrated during this call' using errcode = '40001';
end if;
