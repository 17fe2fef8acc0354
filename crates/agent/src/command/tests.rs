use super::*;

struct Place {
    commands: Commands,
    directory: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("anshin-command-{name}-{}", procfs::own_pid()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        Self { commands: Commands::new(&directory), directory }
    }

    async fn run(&self, resource: &Resource, action: Action) -> OperationResult {
        self.commands.run(resource, action, Duration::from_secs(60)).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn command(name: &str, start: &str) -> Resource {
    Resource::new(format!("{name}-{}", procfs::own_pid()), Class::Command, "shell").with("start", start)
}

use crate::resource::Class;

#[tokio::test]
async fn a_command_is_started_once_monitored_found_again_and_stopped() {
    let place = Place::new("life");
    let resource = command("life", "echo started >> $PWD/starts; exec sleep 1000")
        .with("directory", place.directory.display().to_string());
    assert_eq!(place.run(&resource, Action::Monitor).await.rc, Rc::NOT_RUNNING);
    assert_eq!(place.run(&resource, Action::Start).await.rc, Rc::OK);
    assert_eq!(place.run(&resource, Action::Start).await.rc, Rc::OK);
    assert_eq!(place.run(&resource, Action::Monitor).await.rc, Rc::OK);
    let restarted = Commands::new(&place.directory);
    let found = restarted.run(&resource, Action::Monitor, Duration::from_secs(60)).await;
    assert_eq!(found.rc, Rc::OK, "a restarted daemon knows it");
    assert_eq!(fs::read_to_string(place.directory.join("starts")).unwrap(), "started\n");
    assert_eq!(place.run(&resource, Action::Stop).await.rc, Rc::OK);
    assert_eq!(place.run(&resource, Action::Monitor).await.rc, Rc::NOT_RUNNING);
    assert_eq!(place.run(&resource, Action::Stop).await.rc, Rc::OK, "stopping twice is no failure");
}

#[tokio::test]
async fn a_program_that_ends_at_once_fails_with_its_last_words() {
    let place = Place::new("words");
    let result = place.run(&command("words", "echo no such table >&2; exit 3"), Action::Start).await;
    assert_eq!(result.rc, Rc::GENERIC);
    assert_eq!(result.reason.as_deref(), Some("it ended at once; it said: no such table"));
}

#[tokio::test]
async fn stop_kills_what_ignores_it_and_what_went_into_a_session_of_its_own() {
    let place = Place::new("stubborn");
    let resource =
        command("stubborn", "trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done").with("grace", "0");
    assert_eq!(place.run(&resource, Action::Start).await.rc, Rc::OK);
    assert!(place.commands.members(&resource).len() >= 2);
    assert_eq!(place.run(&resource, Action::Stop).await.rc, Rc::OK);
    assert_eq!(place.commands.members(&resource), []);
}

#[tokio::test]
async fn a_dead_program_with_living_children_is_failed_and_a_new_start_clears_them() {
    let place = Place::new("remnant");
    let resource = command("remnant", "sleep 1000 & exec sleep 1000");
    assert_eq!(place.run(&resource, Action::Start).await.rc, Rc::OK);
    let leader = place.commands.leader(&resource).unwrap();
    procfs::signal(leader, Signal::KILL);
    while procfs::alive(leader.pid) == Some(leader) {
        tokio::task::yield_now().await;
    }
    let monitored = place.run(&resource, Action::Monitor).await;
    assert_eq!(monitored.rc, Rc::GENERIC);
    assert!(monitored.reason.unwrap().starts_with("the program ended and left sleep"));
    assert_eq!(place.run(&resource, Action::Start).await.rc, Rc::OK);
    assert_eq!(place.commands.members(&resource).len(), 2);
    assert_eq!(place.run(&resource, Action::Stop).await.rc, Rc::OK);
}

#[tokio::test]
async fn the_check_decides_when_a_start_is_done_and_whether_it_is_well() {
    let place = Place::new("check");
    let ready = place.directory.join("ready");
    let resource = command("check", &format!("sleep 0.1; touch {0}; exec sleep 1000", ready.display()))
        .with("check", format!("test -e {} || {{ echo not ready >&2; exit 1; }}", ready.display()));
    assert_eq!(place.run(&resource, Action::Start).await.rc, Rc::OK);
    assert!(ready.exists());
    fs::remove_file(&ready).unwrap();
    let monitored = place.run(&resource, Action::Monitor).await;
    assert_eq!(monitored.rc, Rc::GENERIC);
    assert_eq!(monitored.reason.as_deref(), Some("the check failed: not ready (1)"));
    assert_eq!(place.run(&resource, Action::Stop).await.rc, Rc::OK);
}

#[tokio::test]
async fn faults_of_the_parameters_are_named() {
    let place = Place::new("faults");
    let none = Resource::new("x", Class::Command, "shell");
    let result = place.run(&none, Action::ValidateAll).await;
    assert_eq!((result.rc, result.status), (Rc::NOT_CONFIGURED, Status::Error));
    let wrong = command("x", "true").with("user", "nobody-has-this-name");
    let result = place.run(&wrong, Action::Start).await;
    assert_eq!(result.reason.as_deref(), Some("this node has no user `nobody-has-this-name`"));
    let wrong = command("x", "true").with("grace", "soon");
    assert_eq!(place.run(&wrong, Action::ValidateAll).await.rc, Rc::NOT_CONFIGURED);
}
