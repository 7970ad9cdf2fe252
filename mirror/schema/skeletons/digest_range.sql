select jsonb_build_object(
  'rows', count(*) filter (where f.there),
  'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
  'strays', count(*) filter (where f.stray)
) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
  -- Without a hash: whatever the other side has, it differs.
  jsonb_build_array({f_key}, case when f.there and not f.stray then f.hash::text end)
), '[]')) else '{}' end
into answer
from (
  select h.*, case when p_md5 then {md5_hash}
        else {record_hash} end as hash
  from (
    select {keys}, row({values}) as r,
      t.{first_key} is not null and not ({bare}) as there,
      case when t.{first_key} is null then l.present
        else l.present is not true and not ({bare}) end as stray
    from (
      select t.* from {table} as t
      where {t_in_range}
    ) as t
    full join (
      select l.* from {ledger} as l
      where {l_in_range}
    ) as l on {t_is_l}
  ) as h
  where h.there or h.stray
) as f;
