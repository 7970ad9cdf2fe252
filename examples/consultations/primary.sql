-- The backend's table: which client talks to which lawyer. The messages are on Supabase.

create table consultations (
  id uuid primary key default gen_random_uuid(),
  -- Ids that Supabase Auth assigned. "lawyerId" is NULL until a lawyer takes the case.
  "clientId" uuid not null,
  "lawyerId" uuid,
  status text not null default 'pending'
    check (status in ('pending', 'active', 'completed', 'cancelled')),
  "createdAt" timestamptz not null default now(),
  "deletedAt" timestamptz
);
