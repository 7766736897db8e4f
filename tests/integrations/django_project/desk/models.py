from django.db import models


class Row(models.Model):  # noqa: DJ008 -- nobody looks at it
    name = models.CharField(max_length=40, unique=True)

    class Meta:
        app_label = "desk"


class Done(models.Model):  # noqa: DJ008
    """Nothing keeps a name from standing here twice."""

    name = models.CharField(max_length=40)

    class Meta:
        app_label = "desk"
