// The load generator: callers in a closed loop, each with one request under way, on one thread and one completion queue.
//
// It is told everything by options of the form --name=value, warms up, measures, lets what is under way come to its
// end, and prints one JSON object. The processes given by --watch are those whose CPU time is taken at the beginning
// and at the end of the measured time. SIGTERM ends the measured time early. It lasts longer where there would be fewer
// answers than callers.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "poolkeeper/v1/licensing.pb.h"

namespace pb = poolkeeper::v1;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

namespace {

// How long what is under way at the end may take; a slow server is no fault.
constexpr std::chrono::seconds kPatience(120);

volatile std::sig_atomic_t told_to_end = 0;

struct Options {
  std::map<std::string, std::string> values;

  Options(int count, char** words) {
    for (int index = 1; index < count; ++index) {
      const std::string word = words[index];
      const auto equals = word.find('=');
      if (word.rfind("--", 0) != 0 || equals == std::string::npos) {
        std::cerr << "generator: not an option: " << word << "\n";
        std::exit(2);
      }
      values[word.substr(2, equals - 2)] = word.substr(equals + 1);
    }
  }

  std::string text(const std::string& name, const std::string& otherwise = "") const {
    const auto found = values.find(name);
    return found == values.end() ? otherwise : found->second;
  }

  double number(const std::string& name, double otherwise) const {
    const auto found = values.find(name);
    return found == values.end() ? otherwise : std::stod(found->second);
  }

  std::vector<std::string> list(const std::string& name) const {
    std::vector<std::string> found;
    std::stringstream stream(text(name));
    for (std::string part; std::getline(stream, part, ',');) found.push_back(part);
    return found;
  }
};

// ---- what is measured ----

enum Kind { kNoOp, kCheckOut, kCheckIn, kBatch, kHeartbeat, kRenewals, kKinds };
constexpr std::array<const char*, kKinds> kNames = {"no_op", "check_out", "check_in", "batch", "heartbeat", "renewals"};

// The latencies are kept one by one, so that a percentile is what it says.
struct Book {
  bool measuring = false;
  bool ending = false;
  Clock::time_point begun;
  std::array<std::vector<std::uint32_t>, kKinds> microseconds;
  std::uint64_t answers = 0;
  std::uint64_t check_outs = 0;
  std::map<std::string, std::uint64_t> errors;
  std::uint64_t failed = 0;

  void answered(Kind kind, Clock::time_point sent, Clock::time_point now) {
    // A request that was sent while warming up belongs to both times; it counts, and its latency does too, since all
    // callers are in step with the server by then.
    if (measuring) {
      ++answers;
      microseconds[kind].push_back(std::chrono::duration_cast<std::chrono::microseconds>(now - sent).count());
    }
  }

  void error(const std::string& text) {
    ++errors[text];
    // A broken server must not be hammered.
    if (++failed >= 100) ending = true;
  }
};

// User and system time in ticks; 0 for a process that is gone.
std::uint64_t ticks(const std::string& process) {
  std::ifstream file("/proc/" + process + "/stat");
  std::string line;
  std::getline(file, line);
  // The name of the program, in brackets, may hold anything.
  const auto after = line.rfind(')');
  if (after == std::string::npos) return 0;
  std::stringstream fields(line.substr(after + 2));
  std::string field;
  std::uint64_t total = 0;
  // After the name come the fields from the 3rd on; utime and stime are the 14th and the 15th.
  for (int number = 3; number <= 15 && fields >> field; ++number) {
    if (number >= 14) total += std::stoull(field);
  }
  return total;
}

double own_cpu() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

// ---- what is asked and answered ----

struct Session {
  std::string token;
  std::uint32_t count = 0;
  std::uint64_t digest = 0;
};

std::string unique_part() {
  std::random_device device;
  char text[17];
  std::snprintf(text, sizeof text, "%08x%08x", device(), device());
  return text;
}

struct Plan {
  std::string work;
  std::string product;
  std::string payload;
  std::size_t batch = 1;
  std::string unique = unique_part();
  std::vector<Session> sessions;
};

grpc::ByteBuffer to_buffer(const std::string& text) {
  grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer to_buffer(const google::protobuf::MessageLite& message) { return to_buffer(message.SerializeAsString()); }

bool parse(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite& message) {
  grpc::Slice slice;
  if (buffer.TrySingleSlice(&slice).ok()) {
    return message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
  }
  if (!buffer.DumpToSingleSlice(&slice).ok()) return false;
  return message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

// What one caller does next, and what it makes of the answers.
class Dialogue {
 public:
  Dialogue(const Plan& plan, Book& book, std::size_t caller, std::size_t callers)
      : plan_(plan), book_(book), caller_(caller) {
    for (std::size_t index = caller; index < plan.sessions.size(); index += callers) mine_.push_back(index);
    if (mine_.empty() && !plan.sessions.empty()) mine_.push_back(caller % plan.sessions.size());
    payload_ = to_buffer(plan.payload);
  }

  // Moves on to the next request; false when the caller is done.
  bool next() {
    if (book_.ending && held_.empty()) return false;
    ++number_;
    if (!held_.empty()) {
      kind_ = kCheckIn;
      return true;
    }
    if (!mine_.empty()) session_ = mine_[number_ % mine_.size()];
    kind_ = plan_.work == "no-op"       ? kNoOp
            : plan_.work == "heartbeat" ? kHeartbeat
            : plan_.work == "batch"     ? kBatch
            : plan_.work == "renewals"  ? kRenewals
                                        : kCheckOut;
    return true;
  }

  Kind kind() const { return kind_; }
  const Session& session() const { return plan_.sessions.at(session_); }
  bool has_session() const { return !plan_.sessions.empty(); }

  const char* method() const {
    static const std::array<const char*, kKinds> methods = {
        "/bench.Floor/Call", "/poolkeeper.v1.LicensingService/CheckOut", "/poolkeeper.v1.LicensingService/CheckIn",
        "/poolkeeper.v1.LicensingService/BatchCheckOut", "/poolkeeper.v1.LicensingService/Heartbeat",
        "/poolkeeper.v1.LicensingService/BatchHeartbeat"};
    return methods[kind_];
  }

  grpc::ByteBuffer unary() {
    switch (kind_) {
      case kCheckOut:
        fill(check_out_);
        return to_buffer(check_out_);
      case kCheckIn:
        fill(check_in_);
        return to_buffer(check_in_);
      case kBatch:
        fill(batch_);
        return to_buffer(batch_);
      case kHeartbeat:
        fill(heartbeat_);
        return to_buffer(heartbeat_);
      case kRenewals:
        fill(renewals_);
        return to_buffer(renewals_);
      default:
        return payload_;
    }
  }

  grpc::ByteBuffer message() {
    if (kind_ == kNoOp) return payload_;
    request_.set_id(number_);
    switch (kind_) {
      case kCheckOut:
        fill(*request_.mutable_check_out());
        break;
      case kCheckIn:
        fill(*request_.mutable_check_in());
        break;
      case kBatch:
        fill(*request_.mutable_batch_check_out());
        break;
      case kRenewals:
        fill(*request_.mutable_batch_heartbeat());
        break;
      default:
        fill(*request_.mutable_heartbeat());
        break;
    }
    return to_buffer(request_);
  }

  void unary_answered(const grpc::ByteBuffer& buffer) {
    bool whole = true;
    switch (kind_) {
      case kCheckOut: {
        whole = parse(buffer, check_out_answer_);
        granted(check_out_answer_.has_granted() ? &check_out_answer_.granted() : nullptr);
        break;
      }
      case kCheckIn:
        whole = parse(buffer, check_in_answer_);
        checked_in(check_in_answer_);
        break;
      case kBatch:
        whole = parse(buffer, batch_answer_);
        batch_granted(batch_answer_);
        break;
      case kHeartbeat:
        whole = parse(buffer, heartbeat_answer_);
        renewed(heartbeat_answer_);
        break;
      case kRenewals:
        whole = parse(buffer, renewals_answer_);
        all_renewed(renewals_answer_);
        break;
      default:
        whole = buffer.Length() > 0;
        break;
    }
    if (!whole) book_.error("an answer that does not parse");
  }

  // False for a message that nobody asked for.
  bool message_answered(const grpc::ByteBuffer& buffer) {
    if (kind_ == kNoOp) {
      if (buffer.Length() != payload_.Length()) book_.error("an echo of another size");
      return true;
    }
    if (!parse(buffer, response_)) {
      book_.error("an answer that does not parse");
      return true;
    }
    if (response_.id() == 0) return false;
    if (response_.has_error()) {
      held_.clear();
      book_.error(response_.error().message());
      return true;
    }
    switch (kind_) {
      case kCheckOut:
        granted(response_.check_out().has_granted() ? &response_.check_out().granted() : nullptr);
        break;
      case kCheckIn:
        checked_in(response_.check_in());
        break;
      case kBatch:
        batch_granted(response_.batch_check_out());
        break;
      case kRenewals:
        all_renewed(response_.batch_heartbeat());
        break;
      default:
        renewed(response_.heartbeat());
        break;
    }
    return true;
  }

  void failed(const std::string& text) {
    held_.clear();
    book_.error(text);
  }

 private:
  std::string request_id(std::size_t part) {
    char text[80];
    // Led by the time, as the SDK's are.
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
    std::snprintf(text, sizeof text, "%012llx-%s-%zu-%llu-%zu", static_cast<unsigned long long>(milliseconds),
                  plan_.unique.c_str(), caller_, static_cast<unsigned long long>(number_), part);
    return text;
  }

  void fill(pb::CheckOutRequest& request, std::size_t part = 0) {
    request.set_request_id(request_id(part));
    if (request.product().empty()) request.set_product(plan_.product);
  }

  void fill(pb::CheckInRequest& request) {
    request.set_request_id(request_id(0));
    request.set_allocation(held_);
    request.set_reason(pb::CHECK_IN_REASON_ENDED);
  }

  void fill(pb::BatchCheckOutRequest& request) {
    while (request.requests_size() < static_cast<int>(plan_.batch)) request.add_requests();
    for (std::size_t part = 0; part < plan_.batch; ++part) fill(*request.mutable_requests(static_cast<int>(part)), part);
  }

  void fill(pb::HeartbeatRequest& request) {
    request.set_allocation_count(session().count);
    request.set_digest(session().digest);
  }

  // All of the caller's sessions, the same every time.
  void fill(pb::BatchHeartbeatRequest& request) {
    if (request.heartbeats_size() != 0) return;
    for (const std::size_t index : mine_) {
      const Session& one = plan_.sessions.at(index);
      pb::SessionHeartbeat& beat = *request.add_heartbeats();
      beat.set_session_token(one.token);
      beat.mutable_heartbeat()->set_allocation_count(one.count);
      beat.mutable_heartbeat()->set_digest(one.digest);
    }
  }

  void granted(const pb::Granted* granted) {
    if (granted == nullptr) {
      book_.error("a check-out that was not granted");
      return;
    }
    if (book_.measuring) ++book_.check_outs;
    if (plan_.work == "cycle") held_ = granted->allocation().name();
  }

  void checked_in(const pb::CheckInResponse& answer) {
    held_.clear();
    if (answer.allocation().state() != pb::ALLOCATION_STATE_ENDED) book_.error("a check-in that did not end it");
  }

  void batch_granted(const pb::BatchCheckOutResponse& answer) {
    std::size_t count = 0;
    for (const auto& result : answer.results()) {
      if (result.has_granted()) {
        ++count;
      } else {
        book_.error(result.error().message());
      }
    }
    if (count != plan_.batch) book_.error("a batch that was not granted whole");
    if (book_.measuring) book_.check_outs += count;
  }

  void all_renewed(const pb::BatchHeartbeatResponse& answer) {
    if (answer.results_size() != static_cast<int>(mine_.size())) book_.error("a batch that was not answered whole");
    for (const auto& result : answer.results()) {
      if (result.has_renewed()) {
        renewed(result.renewed());
      } else {
        book_.error(result.error().message());
      }
    }
  }

  void renewed(const pb::HeartbeatResponse& answer) {
    if (answer.reconcile() != 0) book_.error("a heartbeat that asks to reconcile");
    if (answer.notices_size() != 0) book_.error("a heartbeat with notices");
  }

  const Plan& plan_;
  Book& book_;
  const std::size_t caller_;
  std::vector<std::size_t> mine_;
  std::size_t session_ = 0;
  std::uint64_t number_ = 0;
  Kind kind_ = kNoOp;
  std::string held_;
  grpc::ByteBuffer payload_;
  // Messages are kept, so that their memory is.
  pb::CheckOutRequest check_out_;
  pb::CheckInRequest check_in_;
  pb::BatchCheckOutRequest batch_;
  pb::HeartbeatRequest heartbeat_;
  pb::BatchHeartbeatRequest renewals_;
  pb::ConnectRequest request_;
  pb::CheckOutResponse check_out_answer_;
  pb::CheckInResponse check_in_answer_;
  pb::BatchCheckOutResponse batch_answer_;
  pb::HeartbeatResponse heartbeat_answer_;
  pb::BatchHeartbeatResponse renewals_answer_;
  pb::ConnectResponse response_;
};

// ---- callers ----

using Event = std::function<void(bool)>;

void authorise(grpc::ClientContext& context, const Dialogue& dialogue) {
  if (dialogue.has_session()) context.AddMetadata("authorization", "Bearer " + dialogue.session().token);
}

class Caller {
 public:
  virtual ~Caller() = default;
  virtual void begin() = 0;
  virtual bool done() const = 0;
};

class UnaryCaller final : public Caller {
 public:
  UnaryCaller(grpc::GenericStub& stub, grpc::CompletionQueue& queue, Book& book, Dialogue dialogue)
      : stub_(stub), queue_(queue), book_(book), dialogue_(std::move(dialogue)), event_([this](bool) { answered(); }) {}

  void begin() override {
    if (!dialogue_.next()) {
      done_ = true;
      return;
    }
    context_.emplace();
    authorise(*context_, dialogue_);
    response_.Clear();
    sent_ = Clock::now();
    call_ = stub_.PrepareUnaryCall(&*context_, dialogue_.method(), dialogue_.unary(), &queue_);
    call_->StartCall();
    call_->Finish(&response_, &status_, &event_);
  }

  bool done() const override { return done_; }

 private:
  void answered() {
    if (status_.ok()) {
      book_.answered(dialogue_.kind(), sent_, Clock::now());
      dialogue_.unary_answered(response_);
    } else {
      dialogue_.failed(status_.error_message());
    }
    begin();
  }

  grpc::GenericStub& stub_;
  grpc::CompletionQueue& queue_;
  Book& book_;
  Dialogue dialogue_;
  std::optional<grpc::ClientContext> context_;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> call_;
  grpc::ByteBuffer response_;
  grpc::Status status_;
  Clock::time_point sent_;
  bool done_ = false;
  Event event_;
};

class StreamCaller final : public Caller {
 public:
  StreamCaller(grpc::GenericStub& stub, grpc::CompletionQueue& queue, Book& book, Dialogue dialogue)
      : book_(book),
        dialogue_(std::move(dialogue)),
        started_([this](bool whole) { whole ? next() : finish(); }),
        written_([this](bool whole) { written(whole); }),
        read_([this](bool whole) { heard(whole); }),
        closed_([this](bool) { finish(); }),
        finished_([this](bool) { ended(); }) {
    // A session's own stream: the first that the caller would use is its only one.
    const bool floor = !dialogue_.has_session();
    if (!floor) dialogue_.next();
    authorise(context_, dialogue_);
    call_ = stub.PrepareCall(&context_, floor ? "/bench.Floor/Echo" : "/poolkeeper.v1.LicensingService/Connect", &queue);
  }

  void begin() override { call_->StartCall(&started_); }
  bool done() const override { return done_; }

 private:
  void next() {
    if (!dialogue_.next()) {
      call_->WritesDone(&closed_);
      return;
    }
    sent_ = Clock::now();
    under_way_ = 2;
    call_->Write(dialogue_.message(), &written_);
    response_.Clear();
    call_->Read(&response_, &read_);
  }

  void written(bool whole) {
    broken_ |= !whole;
    one_done();
  }

  void heard(bool whole) {
    if (whole) {
      const auto now = Clock::now();
      if (!dialogue_.message_answered(response_)) {
        response_.Clear();
        call_->Read(&response_, &read_);
        return;
      }
      book_.answered(dialogue_.kind(), sent_, now);
    }
    broken_ |= !whole;
    one_done();
  }

  void one_done() {
    if (--under_way_ > 0) return;
    broken_ ? finish() : next();
  }

  void finish() { call_->Finish(&status_, &finished_); }

  void ended() {
    if (!status_.ok()) dialogue_.failed(status_.error_message());
    if (broken_ && status_.ok()) dialogue_.failed("a stream that ended by itself");
    done_ = true;
  }

  Book& book_;
  Dialogue dialogue_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  grpc::ByteBuffer response_;
  grpc::Status status_;
  Clock::time_point sent_;
  int under_way_ = 0;
  bool broken_ = false;
  bool done_ = false;
  Event started_, written_, read_, closed_, finished_;
};

// ---- the run ----

std::vector<Session> read_sessions(const std::string& path) {
  std::vector<Session> sessions;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::stringstream fields(line);
    Session session;
    fields >> session.token >> session.count >> session.digest;
    sessions.push_back(session);
  }
  return sessions;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::unique_ptr<grpc::GenericStub>> connect(const Options& options, std::size_t count) {
  const auto targets = options.list("targets");
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (const auto authority = options.text("authority"); !authority.empty()) {
    grpc::SslCredentialsOptions given;
    given.pem_root_certs = read_file(authority);
    credentials = grpc::SslCredentials(given);
  }
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  for (std::size_t index = 0; index < count; ++index) {
    grpc::ChannelArguments arguments;
    // Each channel is a connection of its own.
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    arguments.SetMaxReceiveMessageSize(-1);
    if (!options.text("authority").empty()) arguments.SetSslTargetNameOverride("poolkeeper");
    auto channel = grpc::CreateCustomChannel(targets.at(index % targets.size()), credentials, arguments);
    if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
      std::cerr << "generator: no connection to " << targets.at(index % targets.size()) << "\n";
      std::exit(1);
    }
    stubs.push_back(std::make_unique<grpc::GenericStub>(channel));
  }
  return stubs;
}

std::string quoted(const std::string& text) {
  std::string found = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') found += '\\';
    found += static_cast<unsigned char>(letter) < ' ' ? ' ' : letter;
  }
  return found + "\"";
}

double percentile(std::vector<std::uint32_t>& values, double part) {
  if (values.empty()) return 0;
  const auto place = std::min(values.size() - 1, static_cast<std::size_t>(part * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(place), values.end());
  return values[place];
}

void print(Book& book, double seconds, double own, const std::vector<double>& watched) {
  std::ostringstream out;
  out << "{\"seconds\": " << seconds << ", \"generator_cpu\": " << own << ", \"server_cpu\": [";
  for (std::size_t index = 0; index < watched.size(); ++index) out << (index ? ", " : "") << watched[index];
  out << "], \"check_outs\": " << book.check_outs << ", \"kinds\": {";
  bool first = true;
  for (int kind = 0; kind < kKinds; ++kind) {
    auto& values = book.microseconds[static_cast<std::size_t>(kind)];
    if (values.empty()) continue;
    out << (first ? "" : ", ") << '"' << kNames[static_cast<std::size_t>(kind)] << "\": {\"count\": " << values.size();
    out << ", \"p50\": " << percentile(values, 0.50) << ", \"p99\": " << percentile(values, 0.99) << "}";
    first = false;
  }
  out << "}, \"errors\": {";
  first = true;
  for (const auto& [text, count] : book.errors) {
    out << (first ? "" : ", ") << quoted(text) << ": " << count;
    first = false;
  }
  out << "}}\n";
  std::cout << out.str();
}

int run(const Options& options) {
  const auto callers = static_cast<std::size_t>(options.number("callers", 1));
  const auto channels = std::min(callers, static_cast<std::size_t>(options.number("channels", 1)));
  const bool streams = options.text("transport") == "stream";
  const Seconds warming(options.number("warm", 0.5));
  const Seconds measured(options.number("measure", 2.5));
  const auto processes = options.list("watch");

  Plan plan;
  plan.work = options.text("work");
  plan.product = options.text("product");
  plan.payload = std::string(static_cast<std::size_t>(options.number("bytes", 100)), 'x');
  plan.batch = static_cast<std::size_t>(options.number("batch", 1));
  if (plan.work != "no-op") plan.sessions = read_sessions(options.text("sessions"));

  auto stubs = connect(options, channels);
  grpc::CompletionQueue queue;
  Book book;
  std::vector<std::unique_ptr<Caller>> all;
  for (std::size_t index = 0; index < callers; ++index) {
    Dialogue dialogue(plan, book, index, callers);
    auto& stub = *stubs[index % stubs.size()];
    if (streams) {
      all.push_back(std::make_unique<StreamCaller>(stub, queue, book, std::move(dialogue)));
    } else {
      all.push_back(std::make_unique<UnaryCaller>(stub, queue, book, std::move(dialogue)));
    }
  }

  auto sample = [&processes] {
    std::vector<std::uint64_t> found;
    for (const auto& process : processes) found.push_back(ticks(process));
    return found;
  };
  for (auto& caller : all) caller->begin();
  const auto start = Clock::now() + std::chrono::duration_cast<Clock::duration>(warming);
  std::optional<Clock::time_point> end;
  std::vector<std::uint64_t> before, after;
  double own = 0, seconds = 0;
  // What is under way when the time is over gets this long.
  Clock::time_point patience = Clock::time_point::max();

  while (std::any_of(all.begin(), all.end(), [](const auto& caller) { return !caller->done(); })) {
    // Many events are handled between two looks at all callers.
    for (int turn = 0; turn < 64; ++turn) {
      void* tag = nullptr;
      bool whole = false;
      const auto deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(20);
      const auto status = queue.AsyncNext(&tag, &whole, deadline);
      const auto now = Clock::now();
      if (!book.measuring && !end && now >= start) {
        book.measuring = true;
        book.begun = now;
        end = now + std::chrono::duration_cast<Clock::duration>(measured);
        before = sample();
        own = own_cpu();
      }
      const bool over = book.measuring && (now >= *end || told_to_end != 0);
      // However slow the server is: at least as many answers as there are callers are measured.
      if (book.measuring && (book.ending || (over && (book.answers >= callers || now >= *end + kPatience)))) {
        seconds = Seconds(now - book.begun).count();
        own = own_cpu() - own;
        after = sample();
        book.measuring = false;
        book.ending = true;
        patience = now + kPatience;
      }
      if (book.ending && patience == Clock::time_point::max()) patience = now + kPatience;
      if (now >= patience) {
        std::cerr << "generator: no answer within two minutes of the end\n";
        std::_Exit(1);
      }
      if (status == grpc::CompletionQueue::TIMEOUT) break;
      (*static_cast<Event*>(tag))(whole);
    }
  }

  std::vector<double> watched;
  const auto tick = static_cast<double>(sysconf(_SC_CLK_TCK));
  for (std::size_t index = 0; index < after.size(); ++index) {
    watched.push_back(static_cast<double>(after[index] - before[index]) / tick);
  }
  print(book, seconds, own, watched);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  std::signal(SIGTERM, [](int) { told_to_end = 1; });
  const int status = run(Options(count, words));
  std::cout.flush();
  // Whatever gRPC still has to tidy up is of no interest.
  std::_Exit(status);
}
