from tests.http.conftest import *


def raw(service, data):
    s = service.http.connect(); s.settimeout(3); s.sendall(data); out=b""
    try:
        while True:
            c = s.recv(65536)
            if not c: break
            out += c
    except TimeoutError: out += b"<TIMEOUT>"
    return out

def test_probe(service, client, admin_key):
    def show(label, r): print(label, r.status_code, dict(r.headers), r.text[:400])
    a = open_account(client, balance_minor=1000); b = open_account(client)
    show("404", client.get("/nope")); show("404v1", client.get("/v1/nope"))
    show("405", client.delete("/v1/transfers")); show("options", client.options("/v1/transfers")); show("head", client.head(f"/v1/accounts/{a}"))
    show("rej", transfer(client, a, b, 5000))
    show("%00", client.get("/v1/accounts/%00")); show("%ff", client.get("/v1/accounts/%ff/balance"))
    for q in ("%00","%ff","%ED%A0%80","a%00","%C3%A9","x"*300, "", "a&idempotency_key=b", "a&x=1"):
        show("q "+q[:30], client.get("/v1/transactions?idempotency_key="+q))
    show("noq", client.get("/v1/transactions"))
    for k in (b"\xc3\xa9", b"\xff", b"x"*256, b"x"*255, b"a\tb", b"", b"  ", b"a b"):
        try: show(f"key {k[:10]!r}", client.post("/v1/transfers", json={"debit_account_id":a,"credit_account_id":b,"amount_minor":1}, headers={b"Idempotency-Key": k}))
        except Exception as e: print("key", k[:10], repr(e))
    show("dupkeys", client.post("/v1/transfers", json={"debit_account_id":a,"credit_account_id":b,"amount_minor":1}, headers=[("Idempotency-Key","a1"),("Idempotency-Key","a2")]))
    auth = f"Authorization: Bearer {admin_key}\r\nHost: x\r\n".encode()
    print("raw nonutf8 qs", raw(service, b"GET /v1/transactions?idempotency_key=\xff HTTP/1.1\r\nConnection: close\r\n"+auth+b"\r\n"))
    print("raw nul path", raw(service, b"GET /v1/accounts/\x00 HTTP/1.1\r\nConnection: close\r\n"+auth+b"\r\n"))
    print("raw nonutf8 path", raw(service, b"GET /v1/accounts/\xff HTTP/1.1\r\nConnection: close\r\n"+auth+b"\r\n"))
    print("nul header", raw(service, b"GET /v1/accounts/1 HTTP/1.1\r\nX-Request-ID: a\x00b\r\nConnection: close\r\n"+auth+b"\r\n"))
    print("http1.0", raw(service, b"GET /health/live HTTP/1.0\r\n\r\n"))
    print("neg CL", raw(service, b"POST /v1/transfers HTTP/1.1\r\nContent-Length: -1\r\n"+auth+b"\r\n"))
    big=b"x"*(2<<20)
    show("413 CL", client.post("/v1/transfers", content=big, headers={"Content-Type":"application/json", **new_key()}))
    def gen():
        for i in range(40): yield b"x"*65536
    try: show("413 chunked", client.post("/v1/transfers", content=gen(), headers={"Content-Type":"application/json", **new_key()}))
    except Exception as e: print("413 chunked", repr(e))
    show("after", client.get(f"/v1/accounts/{a}"))
    deep=b'{"metadata":'+b'{"a":'*100000+b'1'+b'}'*100000+b',"amount_minor":1}'
    H={"Content-Type":"application/json", **new_key()}
    show("deep", client.post(f"/v1/accounts/{a}/credit", content=deep, headers=H))
    for d in (400, 900, 990):
      show(f"deep{d}", client.post(f"/v1/accounts/{a}/credit", content=b'{"metadata":'+b'{"a":'*d+b'1'+b'}'*d+b',"amount_minor":1}', headers={**H,**new_key()}))
    show("md 1e400", client.post(f"/v1/accounts/{a}/credit", content=b'{"amount_minor":1,"metadata":{"a":1e400}}', headers={**H,**new_key()}))
    show("md 1e999999", client.post(f"/v1/accounts/{a}/credit", content=b'{"amount_minor":1,"metadata":{"a":1e999999}}', headers={**H,**new_key()}))
    show("md big", client.post(f"/v1/accounts/{a}/credit", json={"amount_minor":1,"metadata":{"a":"x"*9000}}, headers={**H,**new_key()}))
    show("sur", client.post(f"/v1/accounts/{a}/credit", content=b'{"amount_minor":1,"description":"\\ud800"}', headers={**H,**new_key()}))
    show("sur md", client.post(f"/v1/accounts/{a}/credit", content=b'{"amount_minor":1,"metadata":{"a":"\\ud800"}}', headers={**H,**new_key()}))
    show("null md", client.post(f"/v1/accounts/{a}/credit", content=b'{"amount_minor":1,"metadata":null}', headers={**H,**new_key()}))
    show("empty", client.post(f"/v1/accounts/{a}/credit", content=b'', headers={**H,**new_key()}))
    show("cl-less", client.post(f"/v1/accounts/{a}/credit", headers={**H,**new_key()}))
    show("neg od", client.post("/v1/accounts", json={"holder_name":"a","currency":"EUR","overdraft_limit_minor":-1}))
    show("unk", client.post("/v1/accounts", json={"holder_name":"a","currency":"XXQ"})); show("lower", client.post("/v1/accounts", json={"holder_name":"a","currency":"eur"}))
    show("blank", client.post("/v1/accounts", json={"holder_name":" ","currency":"EUR"}))
    show("ready", client.get("/health/ready"))
    show("qs ignored", client.get(f"/v1/accounts/{a}?x=1"))
    for c in ("1","djM","djM!!","djE","v3","%00","%ff","\u00e9","djA", "dmE"): show("cursor "+c, client.get(f"/v1/accounts/{a}/entries?cursor={c}"))
    print(service.http.log()[-3000:])
    service.http.terminate(); print("exit", service.http.process.wait(20)); print(service.http.log()[-2000:])
