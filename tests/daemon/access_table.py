"""Who may do what: every method, whose thing it is asked about, and what each kind of connection is told.

Written by hand, from the protocol, to be read; `test_access.py` plays every cell against a daemon and fails for a
method that has no row. Whose:

    -         nothing of anybody's, or what belongs to the connection by nature (its tools, its state, its events)
    own       what the calling connection made or is itself
    alice's   what the connection made that is bound to the agent `alice`; in her own column it is her own
    free's    what another connection made that is bound to no agent (a run of the agent `free`, say)
    nobody's  what is decided by hosts only: an approval that belongs to the system
    unknown   what does not exist

Who: `nobody` has said nothing, `wrong` has shown a wrong token, `unbound` the daemon's token, `alice` and `mallory`
are bound to the agents of these names, `host` has shown the host's token and is bound to none, `page` came in at the
page's port with a code that was minted for it, `open` is any connection to a daemon with `--no-auth`. What they are told:

    ok        it is done, or shown
    auth      -32001, and the connection is closed
    host      refused: it is for hosts
    unknown   exactly what is said of something that does not exist, to the byte, but for the id that was asked for
    foreign   refused: it is somebody else's
    dropped   a notification that is not passed on
    own, all, lean   a list of the connection's own things; of everybody's; of everybody's, others' without details
    page      refused: it is not for the page
    wrong, bound     the token is wrong; an agent id that another connection holds, or another one than it is bound to
"""

from __future__ import annotations

from typing import NamedTuple

WHO = ["nobody", "wrong", "unbound", "alice", "mallory", "host", "page", "open"]

TABLE = """
method                   whose      nobody   wrong    unbound  alice    mallory  host     page     open

session.auth             -          ok       ok       ok       ok       ok       ok       page     ok
session.auth:wrong       -          wrong    wrong    wrong    wrong    wrong    wrong    page     ok
session.auth:host        -          ok       ok       ok       ok       ok       ok       page     ok
session.auth:code        -          wrong    wrong    wrong    wrong    wrong    wrong    ok       ok
session.auth:session     -          wrong    wrong    wrong    wrong    wrong    wrong    ok       ok
session.auth:agent       alice's    bound    bound    bound    ok       bound    bound    page     bound
session.auth:agent       unknown    ok       ok       ok       bound    bound    ok       page     ok
server.health            -          ok       ok       ok       ok       ok       ok       ok       ok
server.handshake         -          auth     auth     ok       ok       ok       ok       ok       ok
rpc.discover             -          auth     auth     ok       ok       ok       ok       ok       ok
session.init             -          auth     auth     ok       ok       ok       ok       ok       ok
tools.register           -          auth     auth     ok       ok       ok       ok       ok       ok
tools.list               -          auth     auth     ok       ok       ok       ok       ok       ok
tools.unregister         own        auth     auth     ok       ok       ok       ok       ok       ok
tools.unregister         alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
tools.unregister         unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown

state.set                -          auth     auth     ok       ok       ok       ok       ok       ok
state.get                own        auth     auth     ok       ok       ok       ok       ok       ok
state.get                alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
state.get:tenant         alice's    auth     auth     ok       ok       ok       ok       ok       ok
state.get                unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
state.exists             own        auth     auth     ok       ok       ok       ok       ok       ok
state.exists             alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
state.exists             unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
state.keys               -          auth     auth     own      own      own      own      own      own
state.snapshot           -          auth     auth     own      own      own      own      own      own

policy.register          -          auth     auth     ok       ok       ok       ok       ok       ok
policy.register          own        auth     auth     ok       ok       ok       ok       ok       ok
policy.register          alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
policy.register          unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
policy.list              -          auth     auth     ok       ok       ok       ok       ok       ok
policy.list              own        auth     auth     ok       ok       ok       ok       ok       ok
policy.list              alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
policy.list              unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
policy.unregister        -          auth     auth     ok       ok       ok       ok       ok       ok
policy.unregister        own        auth     auth     ok       ok       ok       ok       ok       ok
policy.unregister        alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
policy.unregister        unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
session.policy.open      -          auth     auth     ok       ok       ok       ok       ok       ok
session.policy.close     own        auth     auth     ok       ok       ok       ok       ok       ok
session.policy.close     alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
session.policy.close     unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown

permission.classify      -          auth     auth     ok       ok       ok       ok       ok       ok
permission.evaluate      -          auth     auth     ok       ok       ok       ok       ok       ok
permission.set_tier      -          auth     auth     host     host     host     ok       ok       ok
permission.set_tier      own        auth     auth     host     host     host     ok       ok       ok
permission.set_tier      alice's    auth     auth     host     host     host     ok       ok       ok
permission.set_tier      unknown    auth     auth     host     host     host     unknown  unknown  unknown
permission.approve       -          auth     auth     host     host     host     ok       ok       ok
permission.reject        -          auth     auth     host     host     host     ok       ok       ok

verify                   -          auth     auth     ok       ok       ok       ok       ok       ok
simulate                 -          auth     auth     ok       ok       ok       ok       ok       ok
optimize                 -          auth     auth     ok       ok       ok       ok       ok       ok
equivalent               -          auth     auth     ok       ok       ok       ok       ok       ok
transaction_check        -          auth     auth     ok       ok       ok       ok       ok       ok
replan.set_config        -          auth     auth     ok       ok       ok       ok       ok       ok
proposal.submit          -          auth     auth     ok       ok       ok       ok       ok       ok
proposal.submit          own        auth     auth     ok       ok       ok       ok       ok       ok
proposal.submit          alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
proposal.submit          unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
events.count             -          auth     auth     ok       ok       ok       ok       ok       ok
events.query             -          auth     auth     own      own      own      own      own      own

runs.start               -          auth     auth     ok       ok       ok       ok       ok       ok
runs.start:agent         alice's    auth     auth     ok       ok       foreign  ok       ok       ok
runs.start:key           own        auth     auth     ok       ok       ok       ok       ok       ok
runs.start:key           alice's    auth     auth     foreign  ok       foreign  foreign  foreign  foreign
runs.start:key           free's     auth     auth     foreign  foreign  foreign  foreign  foreign  foreign
runs.start:agent+key     alice's    auth     auth     foreign  ok       foreign  foreign  foreign  foreign
runs.start:agent+key     free's     auth     auth     ok       foreign  foreign  ok       ok       ok
runs.start:key           unknown    auth     auth     ok       ok       ok       ok       ok       ok
runs.record_turns        own        auth     auth     unknown  ok       ok       unknown  unknown  ok
runs.record_turns        alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
runs.record_turns        free's     auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.record_turns        unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.complete            own        auth     auth     ok       ok       ok       ok       ok       ok
runs.complete            alice's    auth     auth     unknown  ok       unknown  ok       ok       ok
runs.complete            free's     auth     auth     unknown  unknown  unknown  ok       ok       ok
runs.complete            unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.subscribe           own        auth     auth     ok       ok       ok       ok       ok       ok
runs.subscribe           alice's    auth     auth     unknown  ok       unknown  ok       ok       ok
runs.subscribe           free's     auth     auth     unknown  unknown  unknown  ok       ok       ok
runs.subscribe           unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.unsubscribe         own        auth     auth     ok       ok       ok       ok       ok       ok
runs.unsubscribe         alice's    auth     auth     unknown  ok       unknown  unknown  unknown  unknown
runs.unsubscribe         free's     auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.unsubscribe         unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.get_trace           own        auth     auth     ok       ok       ok       ok       ok       ok
runs.get_trace           alice's    auth     auth     unknown  ok       unknown  ok       ok       ok
runs.get_trace           free's     auth     auth     unknown  unknown  unknown  ok       ok       ok
runs.get_trace           unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.list                own        auth     auth     unknown  ok       ok       ok       ok       ok
runs.list                alice's    auth     auth     unknown  ok       unknown  ok       ok       ok
runs.list                free's     auth     auth     unknown  unknown  unknown  ok       ok       ok
runs.list                unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
runs.search              -          auth     auth     host     host     host     all      all      all
runs.remove              own        auth     auth     host     host     host     ok       ok       ok
runs.remove              alice's    auth     auth     host     host     host     ok       ok       ok
runs.remove              free's     auth     auth     host     host     host     ok       ok       ok
runs.remove              unknown    auth     auth     host     host     host     unknown  unknown  unknown

host.register_agent      -          auth     auth     ok       ok       ok       ok       ok       ok
host.register_agent      own        auth     auth     ok       ok       ok       ok       ok       ok
host.register_agent      alice's    auth     auth     foreign  ok       foreign  foreign  foreign  foreign
host.register_agent      free's     auth     auth     foreign  foreign  foreign  foreign  foreign  foreign
host.register_agent      unknown    auth     auth     ok       ok       ok       ok       ok       ok
host.set_status          own        auth     auth     ok       ok       ok       ok       ok       ok
host.set_status          alice's    auth     auth     foreign  ok       foreign  foreign  foreign  foreign
host.set_status          free's     auth     auth     foreign  foreign  foreign  foreign  foreign  foreign
host.set_status          unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
host.unregister_agent    own        auth     auth     ok       ok       ok       ok       ok       ok
host.unregister_agent    alice's    auth     auth     foreign  ok       foreign  foreign  foreign  foreign
host.unregister_agent    free's     auth     auth     foreign  foreign  foreign  foreign  foreign  foreign
host.unregister_agent    unknown    auth     auth     unknown  unknown  unknown  unknown  unknown  unknown
host.agents              -          auth     auth     all      own      own      all      all      all
host.notify              -          auth     auth     ok       ok       ok       ok       ok       ok
host.notify              own        auth     auth     ok       ok       ok       ok       ok       ok
host.notify              alice's    auth     auth     ok       ok       foreign  ok       ok       ok
host.notify              free's     auth     auth     ok       foreign  foreign  ok       ok       ok
host.events              -          auth     auth     lean     host     host     all      all      all
host.subscribe           -          auth     auth     lean     host     host     all      all      all
host.request_approval    -          auth     auth     ok       ok       ok       ok       ok       ok
host.request_approval    own        auth     auth     ok       ok       ok       ok       ok       ok
host.request_approval    alice's    auth     auth     ok       ok       foreign  ok       ok       ok
host.request_approval    free's     auth     auth     ok       foreign  foreign  ok       ok       ok
host.resolve_approval    own        auth     auth     ok       host     host     ok       ok       ok
host.resolve_approval    alice's    auth     auth     foreign  host     host     foreign  foreign  foreign
host.resolve_approval    free's     auth     auth     foreign  host     host     foreign  foreign  foreign
host.resolve_approval    nobody's   auth     auth     host     host     host     ok       ok       ok
host.resolve_approval:self own        auth     auth     host     host     host     ok       ok       foreign
host.resolve_approval    unknown    auth     auth     unknown  host     host     unknown  unknown  unknown
host.approvals           -          auth     auth     lean     own      own      all      all      all
host.web_code            -          auth     auth     host     host     host     ok       page     ok

agents.chat              alice's    auth     auth     ok       host     host     ok       ok       ok
agents.chat              unknown    auth     auth     unknown  host     host     unknown  unknown  unknown
agents.chat.cancel       own        auth     auth     ok       host     host     ok       ok       ok
agents.chat.cancel       free's     auth     auth     foreign  host     host     ok       ok       ok
agents.chat.cancel       unknown    auth     auth     unknown  host     host     unknown  unknown  unknown
agents.chat.approve      own        auth     auth     ok       host     host     ok       ok       ok
agents.chat.approve      free's     auth     auth     foreign  host     host     ok       ok       ok
agents.chat.approve      unknown    auth     auth     unknown  host     host     unknown  unknown  unknown
agent.chat.event         free's     auth     auth     dropped  ok       dropped  dropped  dropped  dropped
agent.chat.event         unknown    auth     auth     dropped  dropped  dropped  dropped  dropped  dropped
"""


class Row(NamedTuple):
    """One line: `way` is what comes after the colon, a way to call the method; `told` is by column."""

    method: str
    way: str
    whose: str
    told: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method}{self.way and ':' + self.way} {self.whose}"


def rows() -> list[Row]:
    head, *lines = [line.split() for line in TABLE.splitlines() if line]
    assert head == ["method", "whose", *WHO]
    found = [
        Row(*name.partition(":")[::2], whose, dict(zip(WHO, told, strict=True)))
        for name, whose, *told in lines
    ]
    assert len({str(row) for row in found}) == len(found), "a row is there twice"
    return found
