-- A foreign key of somebody else's table may hold a row back. That must not stop the others,
-- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
-- not at commit, also in the second attempt: inside the block, the setting would be undone.
set constraints all immediate;
begin
  {delete}
exception when foreign_key_violation or restrict_violation then
  for i in 1 .. cardinality({first_array}) loop
    begin
      delete from {table} as t where {t_is_one};
    exception when foreign_key_violation or restrict_violation then
      {blank}
      held := held || jsonb_build_array(jsonb_build_array({one_texts}));
    end;
  end loop;
  retained := retained || jsonb_build_object({mapping}, held);
end;
