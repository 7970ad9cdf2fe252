"""A client writes to a lawyer, and the case goes to a colleague: the rights at each step."""

from pathlib import Path
from uuid import uuid4

from examples.sandbox import REFUSED, Sandbox

FOLDER = Path(__file__).parent

_READ = 'select from messages where "consultationId" = %s'
_WRITE = 'insert into messages (id, "consultationId", content) values (%s, %s, %s)'
_MARK = 'update messages set "readAt" = now() where id = %s'
_EDIT = "update messages set content = %s where id = %s"
_TAKE_BACK = 'update messages set "deletedAt" = now() where id = %s'
_UPLOAD = "insert into storage.objects (bucket_id, name) values ('message-attachments', %s)"
_ATTACH = (
    'insert into message_attachments ("messageId", "consultationId", "fileName", "fileUrl",'
    " \"fileSize\", \"mimeType\") values (%s, %s, 'contract.pdf', %s, 1024, 'application/pdf')"
)


def story(sandbox: Sandbox) -> None:
    """Run the story: each step changes something and checks the effect."""
    client, lawyer, other_lawyer = uuid4(), uuid4(), uuid4()
    case = sandbox.backend(
        'insert into consultations ("clientId") values (%s) returning id', client
    )
    question, slip, path = uuid4(), uuid4(), f"consultations/{case}/{client}/contract.pdf"

    sent = sandbox.user(client, _WRITE, question, case, "May I sign this?")
    sandbox.expect("The client writes, and no lawyer has the case yet.", sent, 1)
    seen = sandbox.user(lawyer, _READ, case)
    sandbox.expect("So no lawyer reads the message.", seen, 0)
    both = sandbox.user(client, _UPLOAD, path), sandbox.user(client, _ATTACH, question, case, path)
    sandbox.expect("The client attaches the contract.", both, (1, 1))

    sandbox.backend('update consultations set "lawyerId" = %s where id = %s', lawyer, case)
    sandbox.expect(
        "A lawyer takes the case, and reads the message.", sandbox.user(lawyer, _READ, case), 1
    )
    sandbox.expect(
        "The lawyer marks the message as read.", sandbox.user(lawyer, _MARK, question), 1
    )
    edited = sandbox.user(lawyer, _EDIT, "I have signed this.", question)
    sandbox.expect("The lawyer may not correct the client's message.", edited, REFUSED)
    edited = sandbox.user(client, _EDIT, "Should I sign this?", question)
    sandbox.expect("The client corrects it.", edited, 1)

    sandbox.user(client, _WRITE, slip, case, "(meant for another chat)")
    sandbox.expect("The client takes a message back.", sandbox.user(client, _TAKE_BACK, slip), 1)
    sandbox.expect("The lawyer does not read it any more.", sandbox.user(lawyer, _READ, case), 1)

    sandbox.backend('update consultations set "lawyerId" = %s where id = %s', other_lawyer, case)
    gone = sandbox.user(lawyer, _READ, case), sandbox.user(lawyer, _WRITE, uuid4(), case, "But…")
    sandbox.expect(
        "The case goes to a colleague; the first lawyer loses access.", gone, (0, REFUSED)
    )
    sandbox.expect("The colleague has access.", sandbox.user(other_lawyer, _READ, case), 1)
