"""Rows of the example backend's primary, created by factory-boy."""

from uuid import uuid4

import factory
from factory.alchemy import SQLAlchemyModelFactory

from examples.trip_chat.models import Membership, Role, Status, Trip, User


class UserFactory(SQLAlchemyModelFactory):
    """A user with an account."""

    class Meta:
        """Bound to a session by the `session` fixture."""

        model = User
        sqlalchemy_session_persistence = "flush"

    id = factory.LazyFunction(uuid4)
    username = factory.Sequence(lambda n: f"user{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.com")


class TripFactory(SQLAlchemyModelFactory):
    """A trip and the user who created it, without a membership."""

    class Meta:
        """Bound to a session by the `session` fixture."""

        model = Trip
        sqlalchemy_session_persistence = "flush"
        exclude = ("creator",)

    id = factory.LazyFunction(uuid4)
    name = factory.Sequence(lambda n: f"Trip {n}")
    creator = factory.SubFactory(UserFactory)
    created_by = factory.SelfAttribute("creator.id")


class MembershipFactory(SQLAlchemyModelFactory):
    """An active membership, with its trip and its user."""

    class Meta:
        """Bound to a session by the `session` fixture."""

        model = Membership
        sqlalchemy_session_persistence = "flush"
        exclude = ("trip", "user")

    trip = factory.SubFactory(TripFactory)
    user = factory.SubFactory(UserFactory)
    trip_id = factory.SelfAttribute("trip.id")
    user_id = factory.SelfAttribute("user.id")
    role = Role.MEMBER
    status = Status.ACTIVE
