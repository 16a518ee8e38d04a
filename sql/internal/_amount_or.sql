-- The amount of a call that may leave it out: as given; or as recorded when the call is a retry, because what is left
-- is another amount by then; or else what is left, or the whole when nothing is.
-- Raises invalid_amount.
create or replace function bank._amount_or(
    amount_minor numeric,
    left_minor bigint,
    whole_minor bigint,
    idempotency_key text,
    ledger_id bigint
) returns bigint
language plpgsql stable as $$
declare
    recorded_minor bigint;
begin
    if amount_minor is not null then
        return bank._amount(amount_minor);
    end if;
    select t.amount_minor into recorded_minor from bank.transaction as t
    where t.ledger_id = _amount_or.ledger_id and t.idempotency_key = _amount_or.idempotency_key;
    return coalesce(recorded_minor, nullif(left_minor, 0), whole_minor);
end
$$;
