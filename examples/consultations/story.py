"""A client writes to a lawyer, and the case goes to a colleague: the rights at each step."""

from pathlib import Path
from uuid import uuid4

from examples.stage import REFUSED, Stage

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


def story(stage: Stage) -> None:
    """Run the story: each step changes something and checks the effect."""
    client, lawyer, other_lawyer = uuid4(), uuid4(), uuid4()
    case = stage.backend('insert into consultations ("clientId") values (%s) returning id', client)
    question, slip, path = uuid4(), uuid4(), f"consultations/{case}/{client}/contract.pdf"

    sent = stage.user(client, _WRITE, question, case, "May I sign this?")
    stage.expect("The client writes, and no lawyer has the case yet.", sent, 1)
    seen = stage.user(lawyer, _READ, case)
    stage.expect("So no lawyer reads the message.", seen, 0)
    both = stage.user(client, _UPLOAD, path), stage.user(client, _ATTACH, question, case, path)
    stage.expect("The client attaches the contract.", both, (1, 1))

    stage.backend('update consultations set "lawyerId" = %s where id = %s', lawyer, case)
    stage.expect(
        "A lawyer takes the case, and reads the message.", stage.user(lawyer, _READ, case), 1
    )
    stage.expect("The lawyer marks the message as read.", stage.user(lawyer, _MARK, question), 1)
    edited = stage.user(lawyer, _EDIT, "I have signed this.", question)
    stage.expect("The lawyer may not correct the client's message.", edited, REFUSED)
    edited = stage.user(client, _EDIT, "Should I sign this?", question)
    stage.expect("The client corrects it.", edited, 1)

    stage.user(client, _WRITE, slip, case, "(meant for another chat)")
    stage.expect("The client takes a message back.", stage.user(client, _TAKE_BACK, slip), 1)
    stage.expect("The lawyer does not read it any more.", stage.user(lawyer, _READ, case), 1)

    stage.backend('update consultations set "lawyerId" = %s where id = %s', other_lawyer, case)
    gone = stage.user(lawyer, _READ, case), stage.user(lawyer, _WRITE, uuid4(), case, "But…")
    stage.expect("The case goes to a colleague; the first lawyer loses access.", gone, (0, REFUSED))
    stage.expect("The colleague has access.", stage.user(other_lawyer, _READ, case), 1)
