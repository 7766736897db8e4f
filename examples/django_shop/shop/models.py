from django.db import models


class Stock(models.Model):
    sku = models.CharField(max_length=40, primary_key=True)
    free = models.PositiveIntegerField()


class Order(models.Model):
    number = models.CharField(max_length=40, primary_key=True)
    sku = models.CharField(max_length=40)
    units = models.PositiveIntegerField()


class Reservation(models.Model):
    """Nothing in the database keeps an order from being reserved twice: exactly once is eventspine's work here."""

    order = models.CharField(max_length=40)
    sku = models.CharField(max_length=40)
    units = models.PositiveIntegerField()


class Parcel(models.Model):
    order = models.CharField(max_length=40)
