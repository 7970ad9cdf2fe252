"""A client writes to a lawyer, who answers, and leaves: who may do what at each step."""

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
    """Play it."""
    client, lawyer, other_lawyer = uuid4(), uuid4(), uuid4()
    case = stage.backend('insert into consultations ("clientId") values (%s) returning id', client)
    question, slip, path = uuid4(), uuid4(), f"consultations/{case}/{client}/contract.pdf"

    sent = stage.user(client, _WRITE, question, case, "May I sign this?")
    stage.expect("The client writes, and nobody has the case yet.", sent, 1)
    seen = stage.user(lawyer, _READ, case)
    stage.expect("So no lawyer reads it.", seen, 0)
    both = stage.user(client, _UPLOAD, path), stage.user(client, _ATTACH, question, case, path)
    stage.expect("The client attaches the contract.", both, (1, 1))

    stage.backend('update consultations set "lawyerId" = %s where id = %s', lawyer, case)
    stage.expect("A lawyer takes the case, and reads it.", stage.user(lawyer, _READ, case), 1)
    stage.expect("The message is read now.", stage.user(lawyer, _MARK, question), 1)
    edited = stage.user(lawyer, _EDIT, "I have signed this.", question)
    stage.expect("What it says is the client's alone to correct.", edited, REFUSED)
    edited = stage.user(client, _EDIT, "Should I sign this?", question)
    stage.expect("Who does.", edited, 1)

    stage.user(client, _WRITE, slip, case, "(meant for somebody else)")
    stage.expect("The client takes a message back.", stage.user(client, _TAKE_BACK, slip), 1)
    stage.expect("The lawyer reads it no more.", stage.user(lawyer, _READ, case), 1)

    stage.backend('update consultations set "lawyerId" = %s where id = %s', other_lawyer, case)
    gone = stage.user(lawyer, _READ, case), stage.user(lawyer, _WRITE, uuid4(), case, "But…")
    stage.expect("The case goes to a colleague; the first lawyer is out.", gone, (0, REFUSED))
    stage.expect("The colleague is in.", stage.user(other_lawyer, _READ, case), 1)
