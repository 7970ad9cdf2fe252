if wanted_until is null then
  limit_key := (
    select array[{key_texts}] from {relation} as s
    where {from_start}
    order by {s_key} offset p_limit limit 1
  );
else
  limit_key := (
    select array[{key_texts}] from {relation} as s
    where {from_start}
      and {below_end}
    order by {s_key} offset p_limit limit 1
  );
end if;
wanted_until := coalesce(limit_key, wanted_until);
