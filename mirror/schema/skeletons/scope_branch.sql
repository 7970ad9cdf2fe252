if p_reference = {reference} then
  if cardinality(p_after) = 0 then
    return (
      select coalesce(jsonb_agg(jsonb_build_array({key_texts}) order by {f_key}), '[]')
      from (
        select {l_key} from {ledger} as l
        where l.present
          {and_under}
        order by {l_key} limit p_limit
      ) as f
    );
  end if;
  return (
    select coalesce(jsonb_agg(jsonb_build_array({key_texts}) order by {f_key}), '[]')
    from (
      select {l_key} from {ledger} as l
      where l.present
        {and_under}
        and ({l_key}) > ({after})
      order by {l_key} limit p_limit
    ) as f
  );
end if;
