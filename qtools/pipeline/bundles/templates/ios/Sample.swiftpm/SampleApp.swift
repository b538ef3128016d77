// Choose a photograph, or show the camera something, and see what the network says; of a detector, where it is as well.

import PhotosUI
import QtoolsPreparation
import QtoolsVision
import SwiftUI

@main
struct SampleApp: App {
    var body: some Scene {
        WindowGroup { AnswersView() }
    }
}

@MainActor
struct AnswersView: View {
    @State private var chosen: PhotosPickerItem?
    @State private var answered: Answered?
    @State private var message = "Choose a picture"
    @State private var network: Network?
    @State private var camera: Camera?

    var body: some View {
        NavigationStack {
            List {
                Text(message)
                if let answered {
                    BoxesView(picture: answered.picture, marks: answered.marks)
                    ForEach(answered.lines, id: \.number) { line in
                        LabeledContent(line.name, value: line.share.formatted(.percent.precision(.fractionLength(1))))
                    }
                }
            }
            .toolbar {
                PhotosPicker("Picture", selection: $chosen, matching: .images)
                Button(camera == nil ? "Camera" : "Stop") {
                    Task { await watch() }
                }
            }
        }
        .onChange(of: chosen) {
            Task { await choose() }
        }
    }

    private func choose() async {
        do {
            guard let data = try await chosen?.loadTransferable(type: Data.self) else { return }
            let opened = try await ready()
            stop()
            show(Result { try Answered(Picture(encoded: data), by: opened) })
        } catch {
            show(.failure(error))
        }
    }

    private func watch() async {
        if camera != nil { return stop() }
        do {
            let opened = try await ready()
            let started = Camera { frame in  // not on the main thread
                let found = Result { try Answered(frame.get(), by: opened) }
                Task { @MainActor in
                    if camera != nil { show(found) }
                }
            }
            try await started.start()
            camera = started
        } catch {
            show(.failure(error))
        }
    }

    private func stop() {
        camera?.stop()
        camera = nil
    }

    private func ready() async throws -> Network {
        if let network { return network }
        let opened = try await Network.carried()
        network = opened
        return opened
    }

    private func show(_ found: Result<Answered, Error>) {
        switch found {
        case .success(let success):
            answered = success
            message = "\(success.picture.width) x \(success.picture.height), \(success.took)"
        case .failure(let error):
            answered = nil
            message = "\(error)"
        }
    }
}
