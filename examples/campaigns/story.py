"""A campaign gathers players, a watcher and a source, and loses them again."""

from pathlib import Path
from uuid import uuid4

from examples.stage import REFUSED, Stage

FOLDER = Path(__file__).parent

_READ = "select from campaign_log where campaign_id = %s"
_WRITE = "insert into campaign_log (campaign_id, body) values (%s, %s)"
_SHEET = "select from character_sheets where character_id = %s"
_ENTRIES = "select from source_entries where source_id = %s"
_SEAT = "insert into campaign_members values (%s, %s, %s, now() + interval '1 day')"


def story(stage: Stage) -> None:
    """Run the story: each step changes something and checks the effect."""
    dm, player, watcher, buyer = uuid4(), uuid4(), uuid4(), uuid4()
    campaign = stage.backend(
        "insert into campaigns (dm_id, name) values (%s, 'The Keep') returning id", dm
    )
    hero = stage.backend(
        "insert into characters (owner_id, name) values (%s, 'Ayla') returning id", player
    )
    created = stage.user(player, "insert into character_sheets values (%s)", hero)
    stage.expect("A player makes a character, and writes its sheet.", created, 1)
    opened = stage.user(dm, _WRITE, campaign, "It rains.")
    stage.expect("The dungeon master opens a campaign, and runs it.", opened, 1)
    seen = stage.user(player, _READ, campaign), stage.user(dm, _SHEET, hero)
    stage.expect("Player and dungeon master see nothing of each other yet.", seen, (0, 0))

    stage.backend("insert into campaign_characters values (%s, %s)", campaign, hero)
    seen = stage.user(player, _READ, campaign), stage.user(dm, _SHEET, hero)
    stage.expect("The character joins; now they see each other's data.", seen, (1, 1))
    wrote = stage.user(player, _WRITE, campaign, "Ayla enters.")
    stage.expect("The player writes in the log.", wrote, 1)

    stage.backend(_SEAT, campaign, watcher, "SPECTATOR")
    did = stage.user(watcher, _READ, campaign), stage.user(watcher, _WRITE, campaign, "Boo!")
    stage.expect("A watcher may read for a day, and may not write.", did, (2, REFUSED))

    source = stage.backend(
        "insert into sources (owner_id, campaign_id, title) values (%s, %s, 'Maps') returning id",
        dm,
        campaign,
    )
    stage.user(dm, "insert into source_entries (source_id, body) values (%s, 'Cellar')", source)
    seen = stage.user(player, _ENTRIES, source), stage.user(buyer, _ENTRIES, source)
    stage.expect("The campaign's maps are private: only its members read them.", seen, (1, 0))
    stage.backend("update sources set is_private = false where id = %s", source)
    seen_by_all = stage.user(buyer, _ENTRIES, source)
    stage.expect("The maps are published, and every user reads them.", seen_by_all, 1)

    stage.backend("update characters set owner_id = %s where id = %s", buyer, hero)
    seen = stage.user(player, _READ, campaign), stage.user(buyer, _READ, campaign)
    stage.expect("The character is sold, and its seat with it.", seen, (0, 2))
