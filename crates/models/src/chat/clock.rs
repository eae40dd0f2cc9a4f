//! `strftime_now(format)`: today's date for templates that state it, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Value;
use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The function, at `now` or at the time of the call.
pub(super) fn strftime_now(now: Option<SystemTime>) -> Value {
    Value::from_function(move |format: &str| {
        let at = now.unwrap_or_else(SystemTime::now);
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        strftime(format, seconds)
    })
}

/// Source of the calendar: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let hour_of_12 = (hour + 11) % 12 + 1;
    let new_year = (0..=days).rev().take(366).take_while(|d| civil(*d).0 == year).count();
    // 1970-01-01 was a Thursday.
    let week_day = DAYS[(days as usize + 4) % 7];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // `%-d` drops the leading zero.
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let two = |number: u64| if padded { format!("{number:02}") } else { number.to_string() };
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two(hour_of_12),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('j') if padded => format!("{new_year:03}"),
            Some('j') => new_year.to_string(),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => week_day.to_owned(),
            Some('a') => week_day[..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let found = other.map_or_else(|| "nothing".to_owned(), |c| format!("`{c}`"));
                let detail = format!("strftime_now: {found} after `%` is not a directive that is supported");
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let read = |seconds, format| strftime(format, seconds).unwrap();
        assert_eq!(read(0, "%d %b %Y %A %j"), "01 Jan 1970 Thursday 001");
        assert_eq!(read(951_825_599, "%Y-%m-%d %H:%M:%S"), "2000-02-29 11:59:59");
        assert_eq!(read(1_735_689_599, "%B %-d, %Y %I:%M %p %a %j"), "December 31, 2024 11:59 PM Tue 366");
        assert_eq!(read(1_709_251_200, "%F %e %y%%"), "2024-03-01  1 24%");
    }

    #[test]
    fn an_unknown_directive_is_an_error_that_names_it() {
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("`Q`"));
        assert!(strftime("%", 0).unwrap_err().to_string().contains("nothing"));
    }
}
