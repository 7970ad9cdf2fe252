-- {child}: close the scope, so that no hung write brings a child back, then its rows.
insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
select {child_literal}, {reference}, k::text, p_epoch, p_fence
from unnest({parent_keys}) as k
on conflict (mapping, reference, value) do update
set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
with forgotten as (
  update {ledger} as l
  set present = false, epoch = p_epoch, applied_at = now(),
    fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
  where l.present and l.{reference_column} = any({parent_keys})
  returning {l_key}
)
select {key_arrays}
into {children} from forgotten;
if {first_child} is not null then
  retained := retained || {withdraw}(
    p_epoch, p_fence, {children}
  );
end if;
