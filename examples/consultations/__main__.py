"""Run the story on temporary servers: `python -m examples.consultations`."""

from examples.consultations.story import FOLDER, story
from examples.stage import run_story
from mappings.consultations import registry

if __name__ == "__main__":
    run_story(story, registry, FOLDER)
