//! What is added to logits: a boost for new documents, which halves with age, and the numbers that any boost may have.

use assay_guest::{Error, invalid};

use crate::condition::Fields;

/// Most that a boost adds or takes away. Logits are rarely beyond 20.
const MAX_BOOST: f32 = 1000.0;
/// Most days of a half-life: a century.
const MAX_HALF_LIFE_DAYS: f64 = 36_525.0;

/// The boost for new documents.
#[derive(Debug)]
pub(crate) struct Fresh {
    /// The number of the field with dates.
    field: usize,
    half_life_days: f64,
    boost: f32,
    today: i64,
}

impl Fresh {
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if it cannot be read, or `today` is missing.
    pub(crate) fn of(value: &str, today: Option<&str>, fields: &Fields<'_>) -> Result<Self, Error> {
        let wanted = "NAME:DAYS:NUMBER";
        let mut parts = value.rsplitn(3, ':');
        let (Some(number), Some(days), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(invalid("fresh", value, wanted));
        };
        let half_life_days = match days.trim().parse::<f64>() {
            Ok(days) if days > 0.0 && days <= MAX_HALF_LIFE_DAYS => days,
            _ => return Err(invalid("fresh", value, &format!("{wanted} with up to {MAX_HALF_LIFE_DAYS} days"))),
        };
        let today = today.ok_or_else(|| {
            Error::InvalidInput("setting fresh needs the setting today, a date such as 2026-03-31".to_owned())
        })?;
        let today = day(today).ok_or_else(|| invalid("today", today, "a date such as 2026-03-31"))?;
        let field = fields.find("fresh", name.trim())?;
        Ok(Self { field, half_life_days, boost: boost_of("fresh", value, number)?, today })
    }

    /// What is added to a document's logit: nothing without a date. A date to come counts as today's.
    pub(crate) fn boost(&self, fields: &Fields<'_>, document: usize) -> f32 {
        let Some(day) = fields.value(self.field, document).and_then(day) else { return 0.0 };
        let age_days = (self.today - day).max(0) as f64;
        (f64::from(self.boost) * (-age_days / self.half_life_days).exp2()) as f32
    }
}

/// A number that may be added to a logit.
pub(crate) fn boost_of(name: &str, value: &str, number: &str) -> Result<f32, Error> {
    match number.trim().parse::<f32>() {
        Ok(number) if number.abs() <= MAX_BOOST => Ok(number),
        _ => Err(invalid(name, value, &format!("end in a number from -{MAX_BOOST} to {MAX_BOOST}"))),
    }
}

/// The number of a day, counted from some day long ago. What follows `YYYY-MM-DD` is passed over.
///
/// Source: `days_from_civil` in <https://howardhinnant.github.io/date_algorithms.html>, with years from March on.
fn day(date: &str) -> Option<i64> {
    let mut parts = date.get(..10)?.split('-');
    let mut part = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()));
        part?.parse::<i64>().ok()
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_months_and_leap_years() {
        let between = |from: &str, to: &str| day(to).unwrap() - day(from).unwrap();
        assert_eq!(between("2026-01-30", "2026-03-01"), 30);
        assert_eq!(between("2024-02-28", "2024-03-01"), 2);
        assert_eq!(between("1900-02-28", "1900-03-01"), 1);
        assert_eq!(between("1970-01-01", "2026-01-01"), 20_454);
        assert_eq!(between("2025-12-31T23:59:59Z", "2026-01-01"), 1);
        for wrong in ["", "2026", "2026-13-01", "2026-00-01", "2026-01-32", "26-1-1", "2026/01/01", "２０２６"] {
            assert_eq!(day(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_boost_halves_with_each_half_life() {
        let mut fields = Fields::default();
        fields.add("day", vec![Some("2026-01-30"), Some("2026-03-01"), Some("2030-01-01"), None, Some("soon")]);
        let fresh = Fresh::of("day:15:8", Some("2026-03-01"), &fields).unwrap();
        let boosts: Vec<f32> = (0..5).map(|document| fresh.boost(&fields, document)).collect();
        assert_eq!(boosts, [2.0, 8.0, 8.0, 0.0, 0.0]);
        for wrong in ["day:15", "day:0:1", "day:x:1", "day:1:x", "nights:1:1", "day:99999:1"] {
            assert!(Fresh::of(wrong, Some("2026-03-01"), &fields).is_err(), "{wrong}");
        }
    }
}
