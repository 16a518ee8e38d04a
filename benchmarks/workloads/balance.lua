-- GET /v1/accounts/{account_id}/balance of random accounts.
dofile("common.lua")

function request()
    return get("/v1/accounts/" .. random_account() .. "/balance")
end
