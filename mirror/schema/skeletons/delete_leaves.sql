if answer ->> 'gone' is not null then
  begin
    -- A deferred foreign key must speak up here, not at commit.
    set constraints all immediate;
    delete from {table} as t using jsonb_array_elements(answer -> 'gone') as g
    where {t_is_g};
    answer := answer || '{"withdrawn": true}';
  exception when foreign_key_violation or restrict_violation then
    -- mirror.withdraw then removes row by row those that are not held back.
  end;
end if;
