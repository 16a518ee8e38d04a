-- The recorded outcome of a used idempotency key, marked as replayed, when the request is the same; raises
-- idempotency_key_reused when it is another. request: as in bank._reuse_facts.
-- collate: a key is found by the unique index, and nothing else is taken for it, whatever collation the caller's text
-- has.
-- It is asked when the insert of a transaction met one that was there. Where that has not the key, it has the id
-- (posted_id) that the sequence gave: raises sequence_behind.
create or replace function bank._replay(
    posted_id bigint,
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb,
    ledger_id bigint,
    original_transaction_id bigint default null,
    legs jsonb default null,
    request jsonb default null
) returns bank.posting
language plpgsql as $$
declare
    recorded bank.posting;
    facts jsonb;
begin
    select * into recorded from bank.posting as p
    where p.ledger_id = _replay.ledger_id and p.idempotency_key = _replay.idempotency_key collate "default";
    if not found then
        perform bank._raise_sequence_behind('transaction_id', posted_id);
    end if;
    facts := bank._reuse_facts(
        recorded, transaction_type, debit_account_id, credit_account_id, amount_minor, description, external_id, metadata,
        original_transaction_id, legs, request
    );
    if facts is not null then
        perform bank._raise('idempotency_key_reused', facts);
    end if;
    recorded.replayed := true;
    return recorded;
end
$$;
