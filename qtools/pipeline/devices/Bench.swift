// Times one Core ML model. Shared by the command for macOS and the app for iOS; prints lines that qtools reads back.

import CoreML
import CoreVideo
import Foundation

let mark = "qtools-bench: "

struct Asked: Codable {
    var artifact = ""
    var sha256 = ""
    var size_bytes = 0
    var place = "all"
    var mode = "interleaved"
    var warmup = 10
    var runs = 50
    var seconds = 0.0
    var queries = 0
}

enum Failure: Error, CustomStringConvertible {
    case input(String)
    var description: String {
        switch self { case .input(let text): return text }
    }
}

func printed(_ fields: [String: Any]) -> String {
    guard let data = try? JSONSerialization.data(withJSONObject: fields, options: [.sortedKeys]),
        let text = String(data: data, encoding: .utf8)
    else { return mark + "{}" }
    return mark + text
}

func system(_ name: String) -> String {
    var size = 0
    guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 0 else { return "" }
    var bytes = [CChar](repeating: 0, count: size)
    guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return "" }
    return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

func machineLine(_ device: String) -> String {
    let version = ProcessInfo.processInfo.operatingSystemVersionString
    #if os(macOS)
    let model = system("hw.model"), name = "macOS"
    #else
    let model = system("hw.machine"), name = "iOS"
    #endif
    return printed([
        "device": device, "name": model, "system": "\(name) \(version)", "chip": system("machdep.cpu.brand_string"),
        "runtime": "Core ML",
    ])
}

func units(_ place: String) -> MLComputeUnits {
    switch place {
    case "cpu": return .cpuOnly
    case "cpu-gpu": return .cpuAndGPU
    case "cpu-ane": return .cpuAndNeuralEngine
    default: return .all
    }
}

/// Largest resident memory of this process so far, in bytes.
func peak() -> Int {
    var usage = rusage()
    return getrusage(RUSAGE_SELF, &usage) == 0 ? Int(usage.ru_maxrss) : 0
}

func milliseconds(_ work: () throws -> Void) rethrows -> Double {
    let start = DispatchTime.now().uptimeNanoseconds
    try work()
    return Double(DispatchTime.now().uptimeNanoseconds - start) / 1e6
}

/// Random content for an input: numbers in [-1, 1), or bytes of an image.
func content(_ described: MLFeatureDescription) throws -> MLFeatureValue {
    switch described.type {
    case .multiArray:
        guard let wanted = described.multiArrayConstraint else { break }
        let array = try MLMultiArray(shape: wanted.shape, dataType: wanted.dataType)
        let whole = wanted.dataType == .int32
        for index in 0..<array.count {
            array[index] = whole ? NSNumber(value: 0) : NSNumber(value: Float.random(in: -1..<1))
        }
        return MLFeatureValue(multiArray: array)
    case .image:
        guard let wanted = described.imageConstraint else { break }
        var made: CVPixelBuffer?
        CVPixelBufferCreate(nil, wanted.pixelsWide, wanted.pixelsHigh, wanted.pixelFormatType, nil, &made)
        guard let buffer = made else { break }
        CVPixelBufferLockBaseAddress(buffer, [])
        if let base = CVPixelBufferGetBaseAddress(buffer) {
            arc4random_buf(base, CVPixelBufferGetBytesPerRow(buffer) * CVPixelBufferGetHeight(buffer))
        }
        CVPixelBufferUnlockBaseAddress(buffer, [])
        return MLFeatureValue(pixelBuffer: buffer)
    default: break
    }
    throw Failure.input("its input '\(described.name)' is of a kind that nothing can be made up for")
}

/// One line with every latency of one artifact. The model is compiled before the clock starts, as an app ships it.
func measured(_ package: URL, _ asked: Asked) async -> String {
    var line: [String: Any] = [
        "artifact": asked.artifact, "sha256": asked.sha256, "size_bytes": asked.size_bytes, "where": asked.place,
        "mode": asked.mode,
    ]
    do {
        let compiled = try await MLModel.compileModel(at: package)
        defer { try? FileManager.default.removeItem(at: compiled) }
        line.merge(try timed(compiled, asked)) { $1 }
    } catch {
        line["failed"] = "\(error)"
    }
    return printed(line)
}

/// The times of a compiled model. Not async, because async code gets another prediction(from:) of Core ML, which hands
/// the work to a queue; and each inference drains its own pool, because the tasks of async code drain none.
func timed(_ compiled: URL, _ asked: Asked) throws -> [String: Any] {
    let settings = MLModelConfiguration()
    settings.computeUnits = units(asked.place)
    let before = peak()
    var loaded: MLModel?
    let initial = try milliseconds { loaded = try MLModel(contentsOf: compiled, configuration: settings) }
    guard let model = loaded else { throw Failure.input("it did not load") }
    var given: [String: MLFeatureValue] = [:]
    for (name, described) in model.modelDescription.inputDescriptionsByName {
        given[name] = try content(described)
    }
    let features = try MLDictionaryFeatureProvider(dictionary: given)
    func inference() throws -> Double {
        return try autoreleasepool { try milliseconds { _ = try model.prediction(from: features) } }
    }
    let first = try inference()
    for _ in 0..<asked.warmup { _ = try inference() }
    var samples: [Double] = []
    let began = DispatchTime.now().uptimeNanoseconds
    let least = max(asked.runs, asked.queries)
    while samples.count < least || Double(DispatchTime.now().uptimeNanoseconds - began) < asked.seconds * 1e9 {
        samples.append(try inference())
    }
    return [
        "init_ms": initial, "first_ms": first, "samples_ms": samples, "before_bytes": before, "peak_bytes": peak(),
    ]
}
